"""``sluice report``: a page about a recording."""
