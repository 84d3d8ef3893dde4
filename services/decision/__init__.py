"""Decides: answers each sample with limits, one domain in order, domains in parallel."""
