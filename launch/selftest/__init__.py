"""`megabiomed submit --selftest`: one job that accepts a cluster, and the page that says whether it did."""
