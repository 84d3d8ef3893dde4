"""The bus: subjects, envelopes, and the one module that speaks NATS."""
