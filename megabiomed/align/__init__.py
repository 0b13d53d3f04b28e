"""Alignment: the encoder-first step, aligned models, chat and export."""
