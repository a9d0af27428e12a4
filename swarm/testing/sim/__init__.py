"""Whole swarms on a deterministic bus and clock, with faults; see docs/simulation.md."""
