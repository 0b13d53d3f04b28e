"""From S2ORC shards to a token store: readers, cleaning, a generated practice corpus, tokenizer and build."""
