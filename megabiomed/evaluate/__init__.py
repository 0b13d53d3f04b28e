"""Questions, perplexities and text of any checkpoint on any topology, also between the steps of a run."""
