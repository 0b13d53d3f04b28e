"""What everything stands on: errors, atomic files, hashes, registries, metrics, HTML. Imports nothing of the package."""
