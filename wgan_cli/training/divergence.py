"""Detect that a run has diverged, and suggest remedies to the user."""

from __future__ import annotations

import math

from torch import nn

from wgan_cli.errors import DivergedError
from wgan_cli.training.updates import CRITIC_TERMS, GENERATOR_TERMS, Updates

# The order in which terms are checked for the cause. A term precedes the terms computed from it.
_CRITIC_ORDER = (
    "critic/loss_real",
    "critic/loss_fake",
    "critic/penalty",
    "critic/loss",
    "critic/wasserstein",
    "critic/grad_norm",
)


def check_finite(
    updates: Updates, means: dict[str, float], *, guard_reset_at: int, step: int
) -> None:
    """Raise `DivergedError` if the NaN guard blocked an update, or a weight or mean is not finite.

    `guard_reset_at` is the step at which the guard was created or last reset. `step` is the last
    finished step. This function waits for the device.
    """
    guard = updates.nan_guard
    if guard.tripped():
        term, value = _cause(guard.last_terms("critic"), guard.last_terms("generator"))
        raise DivergedError(
            f"{term} became {value} in step {guard_reset_at + guard.updates_passed() + 1}.",
            f"It was kept out of the weights. {_advice(term, updates)}",
        )
    for name, number in {**means, **_norms(updates)}.items():
        if not math.isfinite(number):
            raise DivergedError(
                f"{name} is {_describe(number)} at step {step}.", _advice(name, updates)
            )


def _cause(critic: list[float], generator: list[float]) -> tuple[str, str]:
    """Return the name of the first term that is not finite, and its value: "NaN" or "infinite"."""
    terms = dict(zip((*CRITIC_TERMS, *GENERATOR_TERMS), (*critic, *generator), strict=True))
    for name in (*_CRITIC_ORDER, *GENERATOR_TERMS):
        if not math.isfinite(terms[name]):
            return name, _describe(terms[name])
    return "a weight", "NaN or infinite"


def _describe(value: float) -> str:
    return "NaN" if math.isnan(value) else "infinite"


def _advice(term: str, updates: Updates) -> str:
    helps = ["a lower optimizer.lr"]
    if term == "critic/penalty":
        helps.append("a smaller coefficient of the constraint")
    if not updates.constraint.constrains:
        helps.append("a constraint on the critic")
    if updates.trained_critic.bf16:
        helps.append("precision=fp32")
    if updates.critic_clip is None:
        helps.append("grad_clip.critic=1")
    return f"What usually helps: {', or '.join(helps)}."


def _norms(updates: Updates) -> dict[str, float]:
    """Return the norms of weights and running statistics. A NaN may appear there before a loss."""
    weights, statistics = {}, {}
    for name, network in (("generator", updates.generator), ("critic", updates.critic)):
        floating = [b for b in network.buffers() if b.is_floating_point()]
        weights[f"a weight of the {name}"] = nn.utils.get_total_norm(network.parameters())
        statistics[f"a running statistic of the {name}"] = nn.utils.get_total_norm(floating)
    return {name: float(norm) for name, norm in (weights | statistics).items()}
