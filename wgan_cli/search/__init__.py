"""`wgan-search`: find good settings with Optuna; each trial is a separate run."""
