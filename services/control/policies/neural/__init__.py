"""A small neural network as a policy: features, the network, and the policy."""
