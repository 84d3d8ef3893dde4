"""Unit tests of support."""
