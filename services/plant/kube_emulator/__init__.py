"""An emulated Kubernetes API."""
