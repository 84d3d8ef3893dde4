"""Tests of the meter as a process."""
