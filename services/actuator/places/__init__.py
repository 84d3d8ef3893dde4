"""Targets that are limited place by place: where their Pods are, and what the parts add up to."""
