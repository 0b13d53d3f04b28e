"""Qwen3: Llama with norms of the query and key heads."""
