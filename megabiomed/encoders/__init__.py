"""Modalities, their encoders and adaptors: who encodes what, the exchange of rows, their optimizer, cache and checks."""
