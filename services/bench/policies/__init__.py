"""Benches of policies, on the simulated plant and on real packets."""
