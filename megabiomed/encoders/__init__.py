"""Encoders that live beside the language model, and the modalities that they read."""
