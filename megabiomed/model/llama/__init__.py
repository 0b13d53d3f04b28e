"""Llama and Mistral: their tensors, and their way to and from Hugging Face folders."""
