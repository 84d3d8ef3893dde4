"""``sluice replay``: decide on recorded samples again."""
