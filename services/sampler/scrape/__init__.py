"""Samples from scraped pages."""
