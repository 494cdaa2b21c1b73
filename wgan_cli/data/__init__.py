"""Data sets, and the feeds that serve them as batches."""
