"""``sluice tap``: follow the bus."""
