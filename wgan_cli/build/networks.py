"""Build the networks, the constraint and the optimizers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wgan_cli.acceleration.piecewise_linear import use_piecewise_linear_activations
from wgan_cli.acceleration.trained_network import TrainedNetwork
from wgan_cli.acceleration.twice_differentiable import use_twice_differentiable_convolutions
from wgan_cli.build.instantiation import built, called, maker
from wgan_cli.constraints import Constraint
from wgan_cli.constraints.base import BATCH_NORM, LINEAR, NORMALIZATION, layer_names
from wgan_cli.errors import ConfigError, WganError
from wgan_cli.evaluation.sampling import evaluating
from wgan_cli.plain_optimizers import unwrap_optimizers
from wgan_cli.rules import CriticFacts, takes_no_classes
from wgan_cli.schema import TrainConfig, traits

log = logging.getLogger(__name__)

# A fused optimizer kernel of CUDA works on at most 65536 numbers of a tensor in one block of
# threads, and takes at most 36 tensors at once. More tensors keep more of the GPU busy.
_PIECES = 36


def build_generator(
    model: Mapping[str, Any], latent_dim: int, shape: Sequence[int], classes: int | None = None
) -> nn.Module:
    """Return the generator on the CPU, for this sample shape and number of classes."""
    return _build_network(model, "generator", shape, classes, latent_dim=latent_dim)


def build_critic(
    config: TrainConfig, constraint: Constraint, shape: Sequence[int], classes: int | None = None
) -> nn.Module:
    """Return the constrained critic on the CPU, for this sample shape and number of classes."""
    return constraint.wrap(build_unconstrained_critic(config, shape, classes))


def build_unconstrained_critic(
    config: TrainConfig, shape: Sequence[int], classes: int | None = None
) -> nn.Module:
    """Return the critic on the CPU, without what the constraint adds to it."""
    return _build_network(config.model, "critic", shape, classes)


def build_constraint(config: TrainConfig) -> Constraint:
    """Return the constraint on the critic."""
    takes_clip = traits("constraint", config.constraint).takes_clip
    facts = {"clip": config.clip} if takes_clip else {}
    constraint: Constraint = built("constraint", config.constraint, optional={"name"}, **facts)
    return constraint


def trained_network(
    config: TrainConfig, name: str, network: nn.Module, *, penalised: bool = False
) -> TrainedNetwork:
    """Return a network wrapped for training, with flat weights and a bfloat16 copy if possible.

    The traits of the network, the optimizer and the constraint determine what is possible.
    `penalised` is true for a critic whose constraint adds a penalty to the loss.
    """
    bf16, stated = config.precision == "bf16", traits("network", config.model[name])
    # Use channels_last only in bfloat16. In float32, it would change the order of additions and
    # make BatchNorm on a CPU thirty times less exact.
    if bf16 and stated.channels_last:
        network.to(memory_format=torch.channels_last)
    flat = (
        traits("optimizer", config.optimizer).elementwise
        and traits("constraint", config.constraint).weights_in_place
        and stated.weights_in_place
    )
    device = next(network.parameters()).device
    on_cuda = device.type == "cuda"
    pieces = _PIECES if flat and on_cuda and _has_fused_step(config, name, device) else 1
    trained = TrainedNetwork(
        network,
        flat=flat,
        bf16=bf16,
        bf16_copy=stated.bf16_copy,
        # A penalty's gradient would be added in another order. The compiler does not take code
        # that changes a buffer in the backward pass.
        direct=device.type == "cpu" and stated.bf16_copy and not penalised and not config.compile,
        pieces=pieces,
    )
    constraint = traits("constraint", config.constraint)
    if name == "critic" and on_cuda and constraint.takes_plain_second_derivatives:
        # The bfloat16 copy was made before: it computes first derivatives only.
        use_twice_differentiable_convolutions(network)
        use_piecewise_linear_activations(network)
    return trained


def _has_fused_step(config: TrainConfig, name: str, device: torch.device) -> bool:
    """Return True if one fused kernel does the step of the network's optimizer on the device."""
    weight = nn.Parameter(torch.zeros(1, device=device))
    optimizer = build_optimizer(config.optimizer, name, [weight])
    return getattr(optimizer, "_step_supports_amp_scaling", False)


def build_optimizer(
    node: Mapping[str, Any], network_name: str, parameters: Sequence[nn.Parameter]
) -> torch.optim.Optimizer:
    """Return a network's optimizer. Settings under the network's name override shared settings."""
    settings = {k: v for k, v in node.items() if k not in ("name", "critic", "generator")}
    overrides = node.get(network_name) or {}
    settings.update({key: value for key, value in overrides.items() if value is not None})
    unwrap_optimizers()
    make, _ = maker("optimizer", settings)
    if traits("optimizer", node).fused:
        settings["fused"] = True
    optimizer: torch.optim.Optimizer = called("optimizer", settings, make, parameters)
    return optimizer


def facts_of(critic: nn.Module) -> CriticFacts:
    """Return the properties of the critic's layers that the compatibility rules check."""
    normalization = layer_names(critic, NORMALIZATION)
    return CriticFacts(
        lipschitz=getattr(critic, "lipschitz_constant", None) is not None,
        batch_norm=", ".join(layer_names(critic, BATCH_NORM)),
        normalization=", ".join(normalization),
        has_normalization=bool(normalization),
        has_linear_layers=bool(layer_names(critic, LINEAR)),
    )


def log_clipped_batch_norm(config: TrainConfig, critic: nn.Module) -> None:
    """Log a line if weight clipping also clips the scales of the critic's BatchNorm."""
    layers, clipping = layer_names(critic, BATCH_NORM), traits("constraint", config.constraint)
    if clipping.takes_clip and layers and not clipping.exempts_normalization:
        log.info(
            "The critic has BatchNorm (%s): its scales are clipped from 1 to %g, as in the paper."
            " constraint.exempt_normalization=true leaves them out.",
            ", ".join(layers),
            config.clip,
        )


@torch.no_grad()
def refuse_misfit(
    generator: nn.Module,
    critic: nn.Module,
    latent_dim: int,
    sample_shape: Sequence[int],
    classes: int | None,
) -> None:
    """Raise `ConfigError` if a forward pass of two samples fails or gives the wrong shape.

    The generator must map (batch, latent_dim) to (batch, *sample_shape), and the critic must map
    (batch, *sample_shape) to (batch,). The networks are not changed.
    """
    device = next(critic.parameters()).device
    n = 2
    labels = [] if classes is None else [torch.zeros(n, dtype=torch.int64, device=device)]
    scores, latents, samples = (n,), (n, latent_dim), (n, *sample_shape)
    for kind, network, inputs, expected in (
        ("generator", generator, latents, samples),
        ("critic", critic, samples, scores),
    ):
        trial = f"model.{kind} for a batch of shape {inputs}"
        try:
            with evaluating(network):
                output: Any = network(torch.zeros(inputs, device=device), *labels)
        except (WganError, torch.OutOfMemoryError):
            raise
        # Torch raises these errors if shapes do not fit. Other errors are bugs in the user's code.
        except (RuntimeError, ValueError) as error:
            lines = str(error).strip().splitlines() or ["failed"]
            raise ConfigError(
                f"{trial} fails: {lines[0].rstrip('.')}. Choose another model or other data."
            ) from error
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        if shape != expected:
            raise ConfigError(
                f"{trial} gives {shape}, and {expected} is needed: choose another model or other"
                " data."
            )


def _build_network(
    model: Mapping[str, Any], kind: str, shape: Sequence[int], classes: int | None, **facts: Any
) -> nn.Module:
    path, node = f"model.{kind}", model[kind]
    if classes is not None:
        _, accepted = maker(path, node)
        if not accepted("classes"):
            raise takes_no_classes(model.get("name") or node["_target_"], kind)
        facts["classes"] = classes
    network: nn.Module = built(path, node, sample_shape=tuple(shape), **facts)
    return network
