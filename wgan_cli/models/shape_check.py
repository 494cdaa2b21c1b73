"""A trial forward pass that checks the shapes of the networks' inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wgan_cli.errors import ConfigError, WganError

_BATCH = 2


@torch.no_grad()
def refuse_misfit(
    generator: nn.Module,
    critic: nn.Module,
    latent_dim: int,
    sample_shape: Sequence[int],
    classes: int | None = None,
) -> None:
    """Raise `ConfigError` if a forward pass of two samples fails or gives the wrong shape.

    The generator must map (batch, latent_dim) to (batch, *sample_shape), and the critic must map
    (batch, *sample_shape) to (batch,). The networks are not changed.
    """
    device = next(critic.parameters()).device
    labels = [] if classes is None else [torch.zeros(_BATCH, dtype=torch.int64, device=device)]
    shape = tuple(sample_shape)
    latent = torch.zeros(_BATCH, latent_dim, device=device)
    _try("generator", generator, [latent, *labels], shape)
    _try("critic", critic, [torch.zeros(_BATCH, *shape, device=device), *labels], ())


def _try(kind: str, network: nn.Module, inputs: list[Tensor], expected: tuple[int, ...]) -> None:
    trial = f"model.{kind} for a batch of shape {tuple(inputs[0].shape)}"
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        output: Any = network(*inputs)
    except (WganError, torch.OutOfMemoryError):
        raise
    # Torch raises these errors if shapes do not fit. Other errors are bugs in the user's code.
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "failed"
        raise ConfigError(
            f"{trial} fails: {reason}. Choose another model or other data."
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != (_BATCH, *expected):
        raise ConfigError(
            f"{trial} gives {shape}, and {(_BATCH, *expected)} is needed: choose another model or"
            " other data."
        )
