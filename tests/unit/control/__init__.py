"""Unit tests of control."""
