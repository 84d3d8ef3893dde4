"""Integration tests of the actuator."""
