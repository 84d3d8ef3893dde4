"""Shared parts of the tests: real servers on loopback, generated messages, waits."""
