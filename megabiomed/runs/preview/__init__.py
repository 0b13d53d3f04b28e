"""Before a start: what each kind of run refuses, and what a dry run says about it."""
