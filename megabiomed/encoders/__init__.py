"""Molecule and protein encoders that live beside the language model."""
