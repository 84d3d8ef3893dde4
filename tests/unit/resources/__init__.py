"""Tests of domains described in the cluster."""
