"""Measures of the code base that show whether it is easy to read: ``python -m tests.codebase``."""
