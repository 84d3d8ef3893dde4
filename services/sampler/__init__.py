"""Measures: turns latency histograms into one sample per domain and signal period."""
