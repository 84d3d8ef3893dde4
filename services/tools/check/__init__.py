"""``sluice check``: check a configuration before it is used."""
