"""Using a checkpoint of any topology in one process: validation loss and generation."""
