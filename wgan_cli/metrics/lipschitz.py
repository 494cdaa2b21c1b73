"""Gradients of a critic with respect to samples and layer outputs.

Also a function that returns a network's weights after parametrization.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from wgan_cli.float64 import in_float64
from wgan_cli.randomness import Draws


def gradient_norms(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, draws: Draws
) -> Tensor:
    """Return the norm of the critic's gradient at a random point of each real-fake pair, (n,).

    Samples are (n, ...). Each point lies between the two samples of a pair. The largest norm is a
    lower bound of the critic's Lipschitz constant. The critic must treat samples independently: a
    critic with BatchNorm must be in eval mode.
    """
    weights = draws.uniform((len(real),), real.device).reshape(-1, *[1] * (real.ndim - 1))
    points = torch.lerp(fake, real, weights).requires_grad_()
    (gradients,) = torch.autograd.grad(critic(points).sum(), points)
    # In float32, the squares of a large gradient would overflow.
    return in_float64(gradients.flatten(1)).norm(dim=1)


def layer_gradient_norms(
    critic: nn.Module, samples: Tensor, labels: Tensor | None = None
) -> list[tuple[str, float]]:
    """Return (name, norm) of each layer in forward order. The norm is the mean of |df/d output|.

    Norms that shrink or grow from layer to layer show vanishing or exploding gradients, as in arXiv
    1704.00028, figure 1b. A layer is a linear, convolution or other module whose weight has two or
    more dimensions, parametrised or not. Its name is its path in the critic. A layer that runs
    twice is listed twice. A layer that does not affect the score has norm 0. Samples are (n, ...),
    with labels (n,) for a conditional critic. The critic must treat samples independently: with
    BatchNorm, it must be in eval mode. The critic's mode and gradients are not changed.
    """
    outputs: list[tuple[str, Tensor]] = []

    def record(name: str, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        outputs.append((name, output))
        # Return a copy, so that an in-place ReLU does not overwrite the recorded output.
        return output.clone()

    hooks = [
        module.register_forward_hook(partial(record, name))
        for name, module in critic.named_modules()
        if _is_layer(module)
    ]
    try:
        with torch.enable_grad():
            # Require gradients for the samples, so that a frozen critic also has a graph.
            leaf = samples.detach().clone().requires_grad_()
            score = (critic(leaf) if labels is None else critic(leaf, labels)).sum()
    finally:
        for handle in hooks:
            handle.remove()
    if not outputs:
        return []
    gradients = torch.autograd.grad(score, [output for _, output in outputs], allow_unused=True)
    zero = in_float64(torch.zeros((), device=samples.device))
    means = [
        zero if gradient is None else in_float64(gradient.flatten(1).norm(dim=1)).mean()
        for gradient in gradients
    ]
    # One copy from the device for all layers.
    return list(zip((name for name, _ in outputs), torch.stack(means).tolist(), strict=True))


@torch.no_grad()
def weights_in_use(network: nn.Module) -> dict[str, Tensor]:
    """Return all weights by name.

    For a weight with a torch parametrization (for example spectral norm), return the computed
    weight, not the stored original.
    """
    weights: dict[str, Tensor] = {}
    for path, module in network.named_modules():
        if isinstance(module, ParametrizationList):
            continue
        names = [name for name, _ in module.named_parameters(recurse=False)]
        if is_parametrized(module):
            names += list(cast(nn.ModuleDict, module.parametrizations))
        prefix = f"{path}." if path else ""
        weights.update({prefix + name: getattr(module, name) for name in names})
    return weights


def _is_layer(module: nn.Module) -> bool:
    # An embedding's output does not depend on the samples.
    if isinstance(module, nn.LayerNorm | nn.Embedding):
        return False
    if is_parametrized(module, "weight"):
        # Reading `module.weight` would run the parametrization.
        parametrization = cast(nn.ModuleDict, module.parametrizations)["weight"]
        return max(p.ndim for p in parametrization.parameters()) >= 2
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim >= 2
