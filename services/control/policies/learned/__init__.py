"""The learned policy: the knee of the link, the load to come, and the margin between them."""
