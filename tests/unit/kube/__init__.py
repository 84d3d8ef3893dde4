"""Unit tests of the Kubernetes API and its objects."""
