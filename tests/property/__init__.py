"""What must hold for every input, searched by Hypothesis."""

from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine's load, not about the code.
settings.register_profile("loaded", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded")
