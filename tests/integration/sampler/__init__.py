"""Integration tests of the sampler."""
