"""Callbacks: they watch a run and never change what is trained."""
