"""What runs around a plant: the pipeline, the bandwidth agent, Prometheus and the view."""
