"""Fused operations of the Llama blocks, one a file, each with its plain-torch reference."""
