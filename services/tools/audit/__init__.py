"""``sluice audit``: check that everything on the bus is as it must be."""
