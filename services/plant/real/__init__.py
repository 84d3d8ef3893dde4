"""The plant on real packets, in network namespaces."""
