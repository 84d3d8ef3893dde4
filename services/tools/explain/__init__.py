"""``sluice explain``: say in words why a limit changed."""
