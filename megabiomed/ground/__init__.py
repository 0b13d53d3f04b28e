"""What everything stands on: errors, atomic files, hashes, figures, pages. Imports nothing of the package."""
