"""A Hubble-compatible Observer: filters, masks, sorts and fails on given flows as Cilium's Relay does."""
