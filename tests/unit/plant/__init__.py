"""Unit tests of plant."""
