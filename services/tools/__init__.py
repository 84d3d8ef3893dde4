"""Readers of the bus: tap, record, replay, audit, report."""
