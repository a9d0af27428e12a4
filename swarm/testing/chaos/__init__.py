"""Faults on real processes, drawn from a seed, and a verdict that does not ask the queue."""
