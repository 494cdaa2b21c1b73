"""Load checkpoints and build networks from them, for `wgan-sample` and `wgan-eval`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from wgan_cli.build import build_generator
from wgan_cli.commands.resume import refuse_references
from wgan_cli.commands.trust import check_trusted
from wgan_cli.config import validate
from wgan_cli.errors import CheckpointError
from wgan_cli.run_folder import RunFolder
from wgan_cli.training.checkpoint import check_whole, load_checkpoint, load_newest


def chosen_checkpoint(path: Path) -> tuple[dict[str, Any], Path, Path]:
    """Load the checkpoint `path`, or the newest one if `path` is a run folder.

    Return its state, its path and the run folder. Raises `CheckpointError`.
    """
    if path.is_file():
        state = load_checkpoint(path)
        check_whole(state, path)
        return state, path, path.absolute().parent.parent
    newest, newest_path, warnings = load_newest(RunFolder(path).checkpoints)
    for warning in warnings:
        print(warning, file=sys.stderr)
    if newest is None or newest_path is None:
        raise CheckpointError(f"{path} holds no checkpoint that can be read.")
    check_whole(newest, newest_path)
    return newest, newest_path, path


def trusted_generator(
    state: dict[str, Any], path: Path, trusted: Sequence[str], *, raw: bool
) -> nn.Module:
    """Build a checkpoint's generator, with averaged weights (EMA) if there are any, unless `raw`.

    `path` is for messages. Raises `CheckpointError` if the config names a class that is not
    trusted, or if the weights do not fit.
    """
    config: dict[str, Any] = state["config"]
    refuse_references(config, path)
    check_trusted({"model": config.get("model")}, trusted)
    validate(config)
    generator = build_generator(
        config["model"], config["latent_dim"], state["sample_shape"], state.get("classes")
    )
    load_weights(generator, state[generator_key(state, raw=raw)])
    return generator


def generator_key(state: dict[str, Any], *, raw: bool) -> str:
    """Return the key of the generator's weights in `state`: EMA weights if any, unless `raw`."""
    return "generator_ema" if "generator_ema" in state and not raw else "generator"


def load_weights(network: nn.Module, weights: dict[str, Any]) -> None:
    """Load weights into the network. Raises `CheckpointError` if they do not fit."""
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"The weights do not fit the run's model: {str(error).splitlines()[0]}"
        ) from None
