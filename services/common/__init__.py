"""Small parts without a domain of their own: the histogram, back-off and failpoints."""
