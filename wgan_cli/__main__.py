"""`python -m wgan_cli` is `wgan-train`."""

from wgan_cli.commands.train import main

main()
