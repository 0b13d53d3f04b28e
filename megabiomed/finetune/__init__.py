"""Instruction fine-tuning on biomedical questions: one more stage of the same trainer."""
