"""Tests of services.meter without a network."""
