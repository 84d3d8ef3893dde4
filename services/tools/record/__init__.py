"""``sluice record``: write messages of the bus to a file."""
