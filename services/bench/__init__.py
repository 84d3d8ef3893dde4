"""Measures Sluice's own speed and memory; each bench prints a table and can write JSON."""
