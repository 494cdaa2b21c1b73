"""wgan-train: a command-line trainer for Wasserstein GANs."""

__version__ = "0.1.0"
