"""A simulated fleet: many nodes, each a bottleneck of its own, under the live control."""
