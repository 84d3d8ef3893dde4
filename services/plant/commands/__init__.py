"""The commands that run a plant."""
