"""Integration tests of support: what holds of every run of the tests."""
