"""Writes ``hubble_flow_latency_seconds``: pairs Hubble's L4 flows, and probes what opens no flows."""
