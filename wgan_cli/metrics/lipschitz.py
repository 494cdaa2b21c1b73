"""How steep a critic is."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from wgan_cli.randomness import Draws


def gradient_norms(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, draws: Draws
) -> Tensor:
    """The norm of the critic's gradient at one random point between each real and fake sample.

    Shapes (n, ...) to (n,). The largest is a lower bound of the critic's Lipschitz constant. The
    critic must treat samples independently (eval mode where it has BatchNorm).
    """
    share = draws.uniform((len(real),), real.device).reshape(-1, *[1] * (real.ndim - 1))
    points = torch.lerp(fake, real, share).requires_grad_()
    (gradients,) = torch.autograd.grad(critic(points).sum(), points)
    # Squares of a steep slope overflow in float32.
    return gradients.flatten(1).double().norm(dim=1)


def layer_gradient_norms(
    critic: nn.Module, samples: Tensor, labels: Tensor | None = None
) -> list[tuple[str, float]]:
    """The mean over samples of |d f / d output| of each layer, in forward order.

    As in arXiv 1704.00028, figure 1b: norms that shrink or grow from layer to layer are vanishing
    or exploding gradients. Layers are those with a weight of two or more dimensions (linear,
    convolution, also parametrised), named by their path in the critic; one that runs twice is
    there twice, one that the score does not depend on has norm 0. Samples (n, ...), with their
    classes (n,) for a conditional critic; it must treat them independently (eval mode where it has
    BatchNorm), and its mode and gradients are left as they are.
    """
    outputs: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            outputs.append((name, output))
            # An in-place ReLU that follows overwrites the copy.
            return output.clone()

        return hook

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in critic.named_modules()
        if _is_layer(module)
    ]
    try:
        with torch.enable_grad():
            # The samples ask for a gradient so that a frozen critic has one too.
            leaf = samples.detach().clone().requires_grad_()
            score = (critic(leaf) if labels is None else critic(leaf, labels)).sum()
    finally:
        for handle in hooks:
            handle.remove()
    if not outputs:
        return []
    gradients = torch.autograd.grad(score, [output for _, output in outputs], allow_unused=True)
    return [
        (name, 0.0 if gradient is None else float(gradient.flatten(1).norm(dim=1).double().mean()))
        for (name, _), gradient in zip(outputs, gradients, strict=True)
    ]


def _is_layer(module: nn.Module) -> bool:
    # The rows of an embedding are looked up, and no layer's output.
    if isinstance(module, nn.LayerNorm | nn.Embedding):
        return False
    if is_parametrized(module, "weight"):
        # Reading the weight itself would compute it.
        parametrization = cast(nn.ModuleDict, module.parametrizations)["weight"]
        return max(p.ndim for p in parametrization.parameters()) >= 2
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim >= 2
