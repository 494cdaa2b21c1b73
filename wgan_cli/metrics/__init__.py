"""Metrics as functions of tensors and networks."""
