"""``sluice calibrate``: propose a domain's settings from what a recording shows."""
