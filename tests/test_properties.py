"""Whatever is typed, a run trains with finite numbers or is refused in a plain sentence."""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import metrics_of, status_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from wgan_cli.commands.composition import Composer, quoted
from wgan_cli.commands.train import run
from wgan_cli.config import GROUPS, configs_folder
from wgan_cli.schema import METRICS
from wgan_cli.validation import flatten

# To run more examples: WGAN_EXAMPLES=5000 pytest -n 0 -m exhaustive tests/test_properties.py
FEW, IN_CI = 8, 60
EXAMPLES = int(os.environ.get("WGAN_EXAMPLES", IN_CI))

# What keeps a run tiny, whatever else is drawn.
SMALL = ["steps=2", "batch_size=8", "n_critic=1", "latent_dim=2", "threads=1", "device=cpu"]
SMALL += ["log_every=1", "eval_samples=4", "feature_samples=4"]
NETWORKS = {
    "mlp": ["model.generator.width=4", "model.critic.width=4"],
    "lipschitz_mlp": ["model.generator.width=4", "model.critic.width=4"],
    "dcgan": ["model.generator.width=4", "model.critic.width=4"],
    "mlp_dcgan": ["model.generator.width=4", "model.critic.width=4"],
    "resnet": ["model.generator.width=4", "model.critic.width=4"],
    "parallel_lines": ["model.critic.width=4"],
}
# Half of the options drawn are these, so that most commands train.
USUAL = {
    "dataset": ["digits", "digits", "digits", "gaussians_ring"],
    "model": ["mlp"],
    "loss": ["wasserstein"],
    "constraint": ["clip", "none"],
    "optimizer": ["rmsprop"],
}

ABSURD = [
    *("0", "-1", "1e308", "-1e308", "1e-308", "1e39", "1e-46", "nan", "inf", "-inf", str(10**30)),
    *(
        "",
        "null",
        "[]",
        "{}",
        "[[]]",
        "[null]",
        "{a: 1}",
        "true",
        "false",
        "1,2",
        "${x}",
        "${seed}",
    ),
    *(
        "''",
        "' '",
        "'\"'",
        "'\\\\'",
        "naïve",
        "'日本 語'",
        "'\U0001f980'",
        "a" * 3000,
        "[" * 50,
        "a=b",
    ),
]
SMALL_NUMBERS = ["1", "2", "3", "0.5", "1.5", "0.999999", "1e-3", "1e-30", "7"]
LARGE_NUMBERS = ["100", "1e3", "1e6", "1000000", "1e30"]
# What takes time or memory in proportion, or a network, or a compiler.
SIZES = {"steps", "batch_size", "n_critic", "latent_dim", "threads", "width", "depth", "size"}
SIZES |= {"critic_warmup.steps", "critic_warmup.n_critic", "critic_warmup.every", "iterations"}
SIZES |= {"workers", "side", "modes"}
NEVER = {"compile": {"true"}, "download": {"true"}, "steps": {"null"}, "unlabeled": {"true"}}
TEXTS = {
    "device": ["auto", "cpu", "cuda", "cuda:7"],
    "precision": ["auto", "fp32", "bf16"],
    "on_divergence": ["stop", "rollback"],
    "kind": ["none", "linear", "cosine"],
    "norm": ["none", "batch", "layer", "group"],
    "metrics": [f"[{tag}]" for tag in METRICS if not tag.endswith(("_inception", "_classifier"))],
    "betas": ["[0.0,0.9]", "[0.999,0.999]", "[0.5]", "[-1,2]", "[nan,0]", "[0,a]", "0.5"],
    "resume": ["auto", "nowhere", "."],
    "_target_": ["nowhere.Net", "wgan_cli.losses.Hinge", "wgan_cli.models.mlp.Critic", "os", "1"],
}


@cache
def options(group: str) -> list[str]:
    return sorted(path.stem for path in (configs_folder() / group).glob("*.yaml"))


@cache
def defaults(*words: str) -> dict[str, object]:
    """Every setting of these options with its value, and some settings that there are not."""
    plain = OmegaConf.to_container(Composer().compose(words))
    assert isinstance(plain, dict)
    del plain["hydra"]
    others = [*GROUPS, "optimizer.critic", "decay", "clp", "model.critic.x"]
    return {**dict.fromkeys(others), **flatten(plain)}


def values(key: str, default: object) -> st.SearchStrategy[str]:
    """Half of them of the setting's kind, and of these most within its range."""
    last = key.rpartition(".")[2]
    never = NEVER.get(last, ())
    sound = TEXTS.get(last, SMALL_NUMBERS)
    if isinstance(default, bool):
        sound = ["true", "false"]
    elif isinstance(default, int):
        sound = ["1", "2", "3"]
    absurd = [*ABSURD, *([] if SIZES & {key, last} else LARGE_NUMBERS)]
    texts = st.text(max_size=20).map(lambda text: quoted(text.replace("\0", "")))
    return st.one_of(
        *(st.sampled_from([value for value in sound if value not in never]) for _ in range(6)),
        st.sampled_from([value for value in absurd if value not in never]),
        st.floats(-2, 2).map(str),
        texts,
    )


@st.composite
def commands(draw: st.DrawFn) -> list[str]:
    chosen = {
        group: draw(st.one_of(st.sampled_from(usual), st.sampled_from(options(group))))
        for group, usual in USUAL.items()
    }
    words = [f"{group}={option}" for group, option in chosen.items()]
    known = defaults(*words)
    if "dataset.download" in known:
        words.append("dataset.download=false")
    drawn = draw(st.lists(st.sampled_from(list(known)), max_size=3, unique=True))
    typed = [f"{key}={draw(values(key, known[key]))}" for key in drawn]
    return [*words, *SMALL, *NETWORKS[chosen["model"]], *typed]


def answered(words: list[str]) -> tuple[int, str]:
    """Exit code and stderr of a command in the current folder."""
    stderr = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(stderr):
        code = run([*words, "hydra.run.dir=run"])
    return code, stderr.getvalue()


def drawn(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples in (FEW, IN_CI),
        suppress_health_check=list(HealthCheck),
    )


@drawn(FEW)
@given(words=commands())
def test_a_run_trains_with_finite_numbers_or_is_refused_in_a_plain_sentence(
    words: list[str],
) -> None:
    assert_trained_or_refused(words)


@pytest.mark.exhaustive
@drawn(EXAMPLES)
@given(words=commands())
def test_many_runs_train_with_finite_numbers_or_are_refused_in_a_plain_sentence(
    words: list[str],
) -> None:
    assert_trained_or_refused(words)


def assert_trained_or_refused(words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.chdir(name)
        patch.setattr(sys, "argv", ["wgan-train"])
        code, stderr = answered(words)
        torch.set_num_threads(1)
        folder = Path("run")
        if code == 0:
            status = status_of(folder)
            assert (status["state"], status["exit_code"]) == ("finished", 0)
            lines = metrics_of(folder)
            assert lines[-1]["step"] == status["step"] == status["steps"]
            assert all(math.isfinite(number) for line in lines for number in line.values())
            return
        assert 2 <= code <= 8, stderr
        assert "Traceback" not in stderr
        last = stderr.splitlines()[-1]
        assert last.startswith("wgan-train: ")
        assert 20 < len(last) < 900
        if code == 5:
            assert status_of(folder)["state"] == "diverged"
        else:
            assert not list(Path().iterdir()), words
