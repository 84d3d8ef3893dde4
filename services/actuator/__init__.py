"""Acts: makes the limits in force on the cluster those that were decided, and reports it."""
