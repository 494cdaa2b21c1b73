"""What makes training faster: flat weights, bfloat16 copies, CPU convolutions, CUDA graphs."""
