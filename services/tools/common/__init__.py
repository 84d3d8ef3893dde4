"""What several tools share: recordings, readers of the bus, formats and options."""
