"""Part 2: one critic and one generator update of every combination, against float64 on the CPU.

Networks are small. Each combination trains one step in fp32 and in bf16 kernel by kernel, which is
compared with `reference.exact_step` from the same weights, batch, noise and penalty points. Then
the same trainer goes on for some steps, and one with `graphs=true` takes as many from the same
start: their weights must end up near each other.
"""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.agreement import drawn_step
from benchmarks.gpu.cases import run_cases
from benchmarks.gpu.compare import cosine, movement
from benchmarks.gpu.records import Record, Work
from benchmarks.gpu.reference import Exact, Inputs, doubled, exact_step, weights_of
from benchmarks.workloads import completed, composed
from wgan_cli.build import build_dataset, build_trainer
from wgan_cli.cores import usable_cores
from wgan_cli.data.dataset import Dataset
from wgan_cli.errors import ConfigError
from wgan_cli.schema import FilledConfig
from wgan_cli.training.trainer import Trainer

_SMALL = {
    "mlp": ("model.generator.width=64", "model.critic.width=64"),
    "dcgan": ("model.generator.width=16", "model.critic.width=16"),
    "resnet": ("model.generator.width=16", "model.critic.width=16"),
    "mlp_dcgan": ("model.generator.width=64", "model.critic.width=16"),
    "lipschitz_mlp": ("model.generator.width=64", "model.critic.width=32"),
    "parallel_lines": (),
}
MODELS = tuple(_SMALL)
LOSSES = ("wasserstein", "hinge", "gan")
CONSTRAINTS = ("clip", "gradient_penalty", "spectral_norm", "orthogonal", "none")
OPTIMIZERS = ("rmsprop", "adam", "sgd")
# Steps of the comparison of graphs with eager updates: warm-up, capture and several replays.
STEPS = 7


@dataclasses.dataclass(frozen=True)
class Rule:
    """The largest errors that count as rounding.

    `terms`: of losses, relative to the size of the scores that they average (a Wasserstein loss
    itself is a difference near 0), and of the penalty and the gradients' norms, relative to
    themselves. `angle`: the least cosine between the movements of all weights. No relative
    difference is asked of movements: RMSprop's and Adam's first steps have full length wherever a
    gradient is not exactly 0, with the sign of a rounding error where it should be 0.
    `graph_angle`: the least cosine between the movements under graphs and eager, after `STEPS`.
    """

    terms: float
    norms: float
    angle: float
    graph_angle: float


RULES = {"fp32": Rule(1e-4, 1e-3, 0.99, 0.99), "bf16": Rule(5e-2, 0.15, 0.8, 0.8)}
# Spectral norm on CUDA iterates to within 1% of the largest singular value.
SPECTRAL = Rule(2e-2, 2e-2, 0.97, 0.97)


def names() -> list[str]:
    """All combinations, in an order in which a run that is cut off has seen some of everything."""
    found = ["+".join(each) for each in product(MODELS, LOSSES, CONSTRAINTS, OPTIMIZERS)]
    random.Random(0).shuffle(found)
    return found


def run(work: Work) -> None:
    """Run the part."""
    make_images(work.folder)
    workers = max(1, min(8, usable_cores() // 2))
    worst = Worst()
    run_cases(work, 2, names(), workers, longest=40, listen=worst.add)
    for what, found in sorted(worst.found.items()):
        work.report.fact(f"farthest, {what}", found)


def run_case(name: str, work: Work) -> None:
    """Run one combination, `model+loss+constraint+optimizer`."""
    report = work.report
    try:
        config, device = composed(words(name, work.folder))
        refused = ""
    except ConfigError as error:
        refused = str(error)
    if refused:
        report.refused(name, refused)
        return
    dataset = _dataset(config.dataset["name"], work.folder)
    for precision in RULES:
        settings = dataclasses.replace(config, precision=precision)
        rule = rule_of(precision, config.constraint["name"])
        try:
            _compare(f"{name} {precision}", settings, dataset, device, rule, work)
        except ConfigError as error:
            report.refused(name, str(error))
            return


class Worst:
    """The largest error of each kind over all combinations, and the smallest cosine."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, tuple[float, str]]] = {}

    def add(self, record: Record) -> None:
        """Take in a check of a combination."""
        if record["kind"] != "check" or not isinstance(record["found"], dict):
            return
        name, _, path = record["name"].rpartition(" ")
        name, _, precision = name.rpartition(" ")
        found = record["found"]
        kept = self.found.setdefault(f"{precision} {path}", {})
        for term, error in found.get("errors", {}).items():
            kept[term] = max(kept.get(term, (0.0, "")), (error, name))
        for network, angle in (found if path == "graphs" else found.get("angles", {})).items():
            what = f"cosine, {network}"
            kept[what] = min(kept.get(what, (2.0, "")), (angle, name))


def rule_of(precision: str, constraint: str) -> Rule:
    """The rule for a precision under a constraint."""
    return SPECTRAL if (precision, constraint) == ("fp32", "spectral_norm") else RULES[precision]


def words(name: str, folder: Path, device: str = "cuda") -> list[str]:
    """The overrides of a combination."""
    model, loss, constraint, optimizer = name.split("+")
    data = ["dataset=array", f"dataset.path={folder / 'images.npy'}", "latent_dim=16"]
    if model == "parallel_lines":
        data = ["dataset=parallel_lines"]
    return [
        *data,
        f"model={model}",
        *_SMALL[model],
        f"loss={loss}",
        f"constraint={constraint}",
        f"optimizer={optimizer}",
        "optimizer.lr=1e-4",
        "n_critic=1",
        "batch_size=8",
        "graphs=false",
        "ema=0",
        f"device={device}",
        "threads=1",
    ]


def make_images(folder: Path, count: int = 100) -> None:
    """Write smooth colour images of 32x32 as an array."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    np.save(folder / "images.npy", coarse.repeat(4, 1).repeat(4, 2))


@cache
def _dataset(name: str, folder: Path) -> Dataset:
    place = [f"dataset.path={folder / 'images.npy'}"] if name == "array" else []
    model = ["model=parallel_lines", "constraint=none"] if name == "parallel_lines" else []
    return build_dataset(composed([f"dataset={name}", *place, *model])[0])


def trainer_of(config: FilledConfig, dataset: Dataset, device: torch.device) -> Trainer:
    """The tool's trainer of a config."""
    return build_trainer(completed(config, dataset, device), dataset, device)


def inputs_of(trainer: Trainer) -> Inputs:
    """What the trainer's first step starts from, in float64 on the CPU."""
    drawn = drawn_step(trainer, 0)
    latent, generator_latent = drawn.latents
    return Inputs(
        doubled(trainer.updates.generator.state_dict()),
        doubled(trainer.updates.critic.state_dict()),
        drawn.real[0].double().cpu().contiguous(),
        latent.double().cpu(),
        generator_latent.double().cpu(),
        drawn.shares[0].double().cpu(),
    )


def errors(found: dict[str, float], exact: Exact) -> dict[str, float]:
    """The error of each term, relative to what `Rule.terms` says."""
    result = {}
    for name, wanted in exact.terms.items():
        size = max(abs(wanted), exact.scores) if "loss" in name else abs(wanted)
        # A penalty of a critic with slopes of 1 is nothing but rounding.
        least = 1e-3 if "penalty" in name else 1e-30
        error = abs(found[name] - wanted)
        result[name] = error / max(size, least)
    return {name: error if error == error else float("inf") for name, error in result.items()}


def _compare(
    name: str,
    config: FilledConfig,
    dataset: Dataset,
    device: torch.device,
    rule: Rule,
    work: Work,
) -> None:
    report = work.report
    eager = trainer_of(config, dataset, device)
    inputs = inputs_of(eager)
    start = _weights(eager)
    eager.train_step()
    exact = exact_step(config, dataset.sample_shape, inputs)
    found = errors(eager.means.means(), exact)
    angles = {
        network: cosine(movement(start[network], weights), exact.moved[network])
        for network, weights in _weights(eager).items()
    }
    report.check(
        f"{name} eager",
        within(found, angles, rule),
        {"errors": found, "angles": angles},
        f"losses {rule.terms:g}, norms {rule.norms:g}, cosines {rule.angle:g}",
        numbers=True,
    )
    for _ in range(STEPS - 1):
        eager.train_step()
    lines: list[str] = []
    with _warnings(lines):
        graphed = trainer_of(dataclasses.replace(config, graphs=True), dataset, device)
        for _ in range(STEPS):
            graphed.train_step()
    report.check(f"{name} captured", not lines, lines or "no warning", "no warning")
    ends = _weights(eager), _weights(graphed)
    moved = [_movements(start, end) for end in ends]
    agreed = {network: cosine(moved[0][network], moved[1][network]) for network in start}
    report.check(
        f"{name} graphs",
        min(agreed.values()) >= rule.graph_angle,
        agreed,
        f"cosines >= {rule.graph_angle:g} after {STEPS} steps",
        numbers=True,
    )


def within(found: dict[str, float], angles: dict[str, float], rule: Rule) -> bool:
    """Whether the errors of a step are those of rounding."""
    return all(
        error <= (rule.terms if "loss" in name else rule.norms) for name, error in found.items()
    ) and all(angle >= rule.angle for angle in angles.values())


def _weights(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    updates = trainer.updates
    return {"generator": weights_of(updates.generator), "critic": weights_of(updates.critic)}


def _movements(start: dict[str, Any], end: dict[str, Any]) -> dict[str, Tensor]:
    return {network: movement(start[network], end[network]) for network in start}


class _warnings(logging.Handler):  # noqa: N801
    """A context that collects the package's warnings in a list."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.lines: Sequence[str] = lines
        self._add = lines.append

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self._add(record.getMessage())

    def __enter__(self) -> None:
        logging.getLogger("wgan_cli").addHandler(self)

    def __exit__(self, *error: object) -> None:
        logging.getLogger("wgan_cli").removeHandler(self)
