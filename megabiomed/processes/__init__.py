"""The processes of a run on one machine: device, rendezvous, signals, hang guard, starting and joining ranks."""
