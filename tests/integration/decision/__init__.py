"""Integration tests of decision."""
