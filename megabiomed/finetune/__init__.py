"""The name of a worker that jobs queued by an earlier version call. It goes with the next release."""
