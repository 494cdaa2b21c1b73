"""Measuring networks on held-out data, during a run and after, without touching what is trained."""
