"""Attacks on the real parts."""
