"""Staged alignment: molecules and proteins become readable for the language model."""
