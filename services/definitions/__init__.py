"""Definitions of domains: where they come from, how they are published, and how services follow them.

The actuator merges the configuration file (``file_source.py``) and custom resources into one set
(``definition_set.py``); the one in charge publishes it (``publisher.py``), and every service follows (``follower.py``).
"""
