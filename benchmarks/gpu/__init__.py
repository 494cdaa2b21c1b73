"""Checks and measures the package on a CUDA device: python -m benchmarks.gpu --out FOLDER."""
