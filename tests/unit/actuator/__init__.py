"""Unit tests of the actuator."""
