"""Whether a run's numbers and weights are finite, and what to say where they are not."""

from __future__ import annotations

import math

from torch import nn

from wgan_cli.constraints import Unconstrained
from wgan_cli.errors import DivergedError
from wgan_cli.training.updates import CRITIC_TERMS, GENERATOR_TERMS, Updates

# Causes before what follows from them.
_CRITIC_ORDER = (
    "critic/loss_real",
    "critic/loss_fake",
    "critic/penalty",
    "critic/loss",
    "critic/wasserstein",
    "critic/grad_norm",
)


def check_finite(updates: Updates, means: dict[str, float], *, begun: int, step: int) -> None:
    """Raise `DivergedError` where an update was kept out, or a weight or a mean is not finite.

    `begun` is the step at which the gate was opened, `step` the newest. Waits for the device.
    """
    gate = updates.gate
    if gate.closed():
        term, value = _what_closed(gate.last("critic"), gate.last("generator"))
        raise DivergedError(
            f"{term} became {value} in step {begun + gate.passed() + 1}.",
            f"It was kept out of the weights. {_what_helps(term, updates)}",
        )
    for name, number in {**means, **_norms(updates)}.items():
        if not math.isfinite(number):
            raise DivergedError(
                f"{name} is {_word(number)} at step {step}.", _what_helps(name, updates)
            )


def _what_closed(critic: list[float], generator: list[float]) -> tuple[str, str]:
    """The first term of the update that was not finite, and what it was instead."""
    terms = dict(zip(CRITIC_TERMS, critic, strict=True))
    ordered = {name: terms[name] for name in _CRITIC_ORDER}
    ordered.update(zip(GENERATOR_TERMS, generator, strict=True))
    for name, value in ordered.items():
        if not math.isfinite(value):
            return name, _word(value)
    return "a weight", "NaN or infinite"


def _word(value: float) -> str:
    return "NaN" if math.isnan(value) else "infinite"


def _what_helps(term: str, updates: Updates) -> str:
    helps = ["a lower optimizer.lr"]
    if term == "critic/penalty":
        helps.append("a smaller coefficient of the constraint")
    if isinstance(updates.constraint, Unconstrained):
        helps.append("a constraint on the critic")
    if updates.critic_weights.bf16:
        helps.append("precision=fp32")
    if updates.critic_clip is None:
        helps.append("grad_clip.critic=1")
    return f"What usually helps: {', or '.join(helps)}."


def _norms(updates: Updates) -> dict[str, float]:
    """Of all weights and running statistics; what is broken there shows in no loss yet."""
    networks = {"generator": updates.generator, "critic": updates.critic}
    norms = {
        f"a weight of the {name}": nn.utils.get_total_norm(network.parameters())
        for name, network in networks.items()
    }
    for name, network in networks.items():
        floating = [b for b in network.buffers() if b.is_floating_point()]
        norms[f"a running statistic of the {name}"] = nn.utils.get_total_norm(floating)
    return {name: float(norm) for name, norm in norms.items()}
