"""Runs the attacks in full size."""
