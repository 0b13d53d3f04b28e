"""Fused operations of the decoder blocks, one per file, each with its plain-torch reference."""
