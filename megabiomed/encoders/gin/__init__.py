"""GIN: molecules as graphs of atoms."""
