"""Tests on real parts: servers, programs, network namespaces."""
