"""Sluice's services; README.md in this folder shows how they hang together."""
