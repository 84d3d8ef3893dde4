"""Kubernetes for tests: servers, objects, kubelets and manifests."""
