"""What watches a run: it sees the trainer and never changes what is trained."""
