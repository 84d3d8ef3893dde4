"""``kubectl sluice``: the tools, with bus, password and configuration of the current context; pause and resume."""
