"""What makes training faster: bfloat16 copies, flat tensors, CPU convolutions, CUDA graphs."""
