"""The Kubernetes API: one client, and the objects as Sluice reads them."""
