"""`megabiomed report`: what happened to a run, as a page that a person wants to read."""
