"""Unit tests of the sampler."""
