"""Two nodes with different uplinks under one definition: a limit per node, and an even share beside it."""
