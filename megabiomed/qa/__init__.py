"""Biomedical questions: records of the published datasets, prompt templates, encoding, a generated set."""
