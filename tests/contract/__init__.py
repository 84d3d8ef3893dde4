"""Agreements with others: message schemas, interfaces of parts."""
