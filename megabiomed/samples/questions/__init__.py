"""Biomedical questions: layouts, prompt templates, token stores and their windows."""
