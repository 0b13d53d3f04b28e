"""Llama2: the parallel model, and its way to and from Hugging Face folders."""
