"""Measuring networks on held-out data, during and after a run, without changing the training."""
