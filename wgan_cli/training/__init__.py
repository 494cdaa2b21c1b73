"""The training loop, its updates, checkpoints and callbacks."""
