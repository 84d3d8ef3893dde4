"""``sluice export``: a recording as flat tables for notebooks."""
