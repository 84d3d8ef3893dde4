"""Contracts with other programs: message schemas, Kubernetes, Hubble, Prometheus, documentation."""
