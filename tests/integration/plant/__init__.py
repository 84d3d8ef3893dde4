"""Integration tests of plant."""
