"""``sluice bench ui``: how old a message is when the live page shows it, and what page and server cost."""
