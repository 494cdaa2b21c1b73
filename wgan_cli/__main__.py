"""Run `wgan-train` as `python -m wgan_cli`."""

from wgan_cli.commands.train import main

main()
