"""The training loop, the updates, the checkpoints and the callbacks."""
