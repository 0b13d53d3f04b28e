"""ESM-2: proteins as sequences of residues."""
