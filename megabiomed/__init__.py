"""megabiomed: train BioMedGPT at any scale (docs/architecture.md is the map of this package)."""

from pathlib import Path

__version__ = (Path(__file__).parent / "VERSION").read_text().strip()
