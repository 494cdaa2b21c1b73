"""Callbacks, which observe a run and never change the training."""
