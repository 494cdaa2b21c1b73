"""Evaluation of networks on held-out data, during or after a run, without changing the training."""
