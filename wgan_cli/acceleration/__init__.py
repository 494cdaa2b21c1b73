"""Faster training: flat weights, bfloat16 copies, second derivatives and CUDA graphs."""
