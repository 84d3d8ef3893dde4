"""``sluice explain``: tell in words why a limit changed."""
