"""Proofs about the shield and the fences: ``python -m tests.proof``."""
