"""Architectures as tables of tensors; decoder blocks, adapters, Hugging Face folders and certificates follow from them."""
