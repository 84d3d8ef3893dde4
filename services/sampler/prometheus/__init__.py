"""Samples from PromQL."""
