"""Tokenizers: training, extending, encoding, measuring, exporting."""
