"""Domains described in the cluster, on an API server."""
