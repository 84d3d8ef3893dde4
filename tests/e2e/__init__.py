"""The whole pipeline, as processes."""
