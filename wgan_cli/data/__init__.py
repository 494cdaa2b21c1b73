"""Data sets, and the feeds that turn them into batches."""
