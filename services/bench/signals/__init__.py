"""Benches of signals: their lag and their cost."""
