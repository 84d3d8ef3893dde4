"""The causal bound: what the best controller without foresight achieves on a case."""
