"""Committed files that every build must be able to read."""
