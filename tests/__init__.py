"""Tests: unit, property, contract, golden, integration, e2e."""
