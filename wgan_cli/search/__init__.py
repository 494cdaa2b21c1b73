"""`wgan-search`: which settings serve best, by Optuna, each trial a run of its own."""
