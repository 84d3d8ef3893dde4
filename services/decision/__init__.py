"""The decision service: answers each sample with limits, in order within a domain, domains in parallel."""
