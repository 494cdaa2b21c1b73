"""Faster training: flat weights, bfloat16 copies, CPU convolutions and CUDA graphs."""
