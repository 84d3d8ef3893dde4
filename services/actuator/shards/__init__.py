"""Which domains an actuator acts on: the Leases of their shards, and whose decisions it reads."""
