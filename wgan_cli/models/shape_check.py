"""Whether networks take and give what the data have, for networks that the config does not tell."""

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
    """Raise `ConfigError` where one pass of two samples fails, or gives another shape.

    Latent (batch, latent_dim) must become (batch, *sample_shape), and that (batch,). The networks
    are left as they were.
    """
    device = next(critic.parameters()).device
    labels = [] if classes is None else [torch.zeros(_BATCH, dtype=torch.int64, device=device)]
    shape = tuple(sample_shape)
    latent = torch.zeros(_BATCH, latent_dim, device=device)
    _try("generator", generator, [latent, *labels], shape)
    _try("critic", critic, [torch.zeros(_BATCH, *shape, device=device), *labels], ())


def _try(kind: str, network: nn.Module, given: list[Tensor], wanted: tuple[int, ...]) -> None:
    takes = f"model.{kind} for a batch of shape {tuple(given[0].shape)}"
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        made: Any = network(*given)
    except (WganError, torch.OutOfMemoryError):
        raise
    # What torch raises for shapes that do not fit; anything else is a defect of the user's code.
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "failed"
        raise ConfigError(
            f"{takes}, as the data have it: {reason}. Choose another model or other data."
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
    if shape != (_BATCH, *wanted):
        raise ConfigError(
            f"{takes} gives {shape}, and {(_BATCH, *wanted)} is needed: choose another model or"
            " other data."
        )
