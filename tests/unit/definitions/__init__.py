"""Definitions of domains."""
