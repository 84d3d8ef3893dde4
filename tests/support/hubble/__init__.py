"""A Hubble-compatible Observer: filters, masks, sorts and fails as Cilium's Relay does, on flows that it is given."""
