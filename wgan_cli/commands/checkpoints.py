"""Load checkpoints and build networks from them, for `wgan-sample` and `wgan-eval`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wgan_cli.build import build_generator
from wgan_cli.commands.cli import print_error
from wgan_cli.commands.resume import refuse_references
from wgan_cli.commands.trust import check_trusted
from wgan_cli.config import validate
from wgan_cli.errors import CheckpointError, WganError
from wgan_cli.out_of_memory import is_out_of_memory
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
        print_error(warning)
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
    facts = config["model"], config["latent_dim"], state["sample_shape"], state.get("classes")
    weights = state[generator_key(state, raw=raw)]
    refuse_misfit(lambda: build_generator(*facts), weights)
    try:
        generator = build_generator(*facts)
    except (RuntimeError, OverflowError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: its generator cannot be built: {reason}") from None
    load_weights(generator, weights)
    return generator


def refuse_misfit(build: Callable[[], nn.Module], weights: Any) -> None:
    """Raise `CheckpointError` if the weights' shapes are not those of the network.

    The network is built without memory for its weights: sizes that are not the checkpoint's own
    could need more than there is. A network that cannot be built so is not checked.
    """
    try:
        with torch.device("meta"), _WithoutNormalNumbers():
            expected = build().state_dict()
    except WganError:
        raise
    except Exception:
        return
    for name, tensor in expected.items():
        if not isinstance(tensor, Tensor):
            continue
        saved = weights.get(name) if isinstance(weights, dict) else None
        if not isinstance(saved, Tensor) or saved.shape != tensor.shape:
            shape = tuple(saved.shape) if isinstance(saved, Tensor) else "missing"
            raise CheckpointError(
                f"The weights do not fit the run's model: {name} has shape {tuple(tensor.shape)} in"
                f" the model and {shape} in the checkpoint."
            )


class _WithoutNormalNumbers(TorchFunctionMode):
    """Within the context, no tensor is filled with normal random numbers.

    For a tensor without memory, torch would import its compiler for that, which takes a second.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "normal_":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


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
