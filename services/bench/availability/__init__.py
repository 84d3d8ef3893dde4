"""Benches of what happens when parts are killed."""
