"""Going on with other settings: each either may differ, or is refused by its name."""

from __future__ import annotations

import copy
import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY

from wgan_cli.commands.resume import MAY_DIFFER, refuse_changes
from wgan_cli.commands.train import run
from wgan_cli.config import as_dict, fill, validate
from wgan_cli.errors import ConfigError
from wgan_cli.machine import multiplies_bfloat16
from wgan_cli.rules import check_rules
from wgan_cli.schema import SCHEMAS, TrainConfig
from wgan_cli.validation import flatten

WORDS = [*TINY, "eval_samples=8", "metrics=[wasserstein/exact]", "hydra.run.dir=first"]
# Where another value is none of the setting's kind.
OTHER = {
    "device": "auto",
    "precision": "fp32" if multiplies_bfloat16(torch.device("cpu")) else "bf16",
    "decay.kind": "cosine",
    "metrics": ["critic/lipschitz"],
    "on_divergence": "rollback",
    "keep_every": 1000,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `first` is a finished run."""
    here = tmp_path_factory.mktemp("resumed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(sys, "argv", ["wgan-train"])
        assert run(WORDS) == 0
    return here


def kinds(schema: type, path: str) -> dict[str, str]:
    """The types of a schema's fields by dotted key."""
    found = {}
    for field in dataclasses.fields(schema):
        inner: Any = field.default_factory
        if dataclasses.is_dataclass(inner):
            found.update(kinds(inner, f"{path}{field.name}."))
        else:
            found[path + field.name] = str(field.type)
    return found


def every_setting(config: dict[str, Any]) -> dict[str, Any]:
    """Every key that can be typed for this run, with another value than it has."""
    nodes = {group: config[group] for group in ("dataset", "loss", "constraint", "optimizer")}
    nodes |= {f"model.{network}": config["model"][network] for network in ("generator", "critic")}
    types = kinds(TrainConfig, "")
    for path, node in nodes.items():
        types.update(kinds(SCHEMAS[node["_target_"]], f"{path}."))
    values, others = flatten(config), {}
    for key, kind in types.items():
        last, value = key.rpartition(".")[2], values.get(key)
        if key in OTHER:
            others[key] = OTHER[key]
        elif kind.startswith("bool"):
            others[key] = not value
        elif kind.startswith("int"):
            others[key] = (value or 1) + 1
        elif kind.startswith("float"):
            others[key] = (value or 0) / 2 + 0.001
        elif kind.startswith("str") and last not in ("_target_", "resume"):
            others[key] = "linear" if last == "decay" else "other"
    return others


def with_setting(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    *path, last = key.split(".")
    node = changed
    for part in path:
        node = node[part]
    node[last] = value
    return changed


def test_every_setting_may_differ_or_is_refused_by_its_name(trained: Path) -> None:
    saved = yaml.safe_load((trained / "first" / "config.yaml").read_text())
    settings = every_setting(saved)
    assert len(settings) > 55
    went_on = set()
    for key, value in settings.items():
        assert flatten(saved)[key] != value
        try:
            config = validate(with_setting(saved, key, value))
            check_rules(config)
            refuse_changes(saved, as_dict(fill(config)[0]), trained)
            went_on.add(key)
        except ConfigError as error:
            # Rules may refuse it before.
            assert key in str(error)
            assert "→" in str(error) or "no effect" in str(error), error
    assert went_on == {key for key in settings if {key, key.partition(".")[0]} & MAY_DIFFER}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["grad_clip.generator=1"], 2, "grad_clip.generator None → 1"),
        (["optimizer.critic.eps=0.5"], 2, "optimizer.critic.eps None → 0.5"),
        (["on_divergence=rollback", "keep_every=1000", "device=auto"], 0, "2 steps already"),
    ],
)
def test_the_command_says_the_same_and_leaves_the_run_alone(
    words: list[str],
    code: int,
    said: str,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(trained)
    monkeypatch.setattr(sys, "argv", ["wgan-train"])
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert run(["resume=first", *words]) == code
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr
    assert said in stderr
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 0", "seed: 0\nn_critics: 3", ["n_critics is no setting", "Did you mean n_critic?"]),
        (
            "  width: 8",
            "  widht: 8\n    width: 8",
            ["model.generator.widht is no setting", "Did you mean model.generator.width?"],
        ),
    ],
)
def test_a_saved_setting_that_is_none_any_more_is_named(
    old: str,
    new: str,
    said: list[str],
    trained: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (trained / "first" / "config.yaml").read_text()
    assert old in text
    (here / "run").mkdir()
    (here / "run" / "config.yaml").write_text(text.replace(old, new, 1))
    for words in (["resume=run"], ["--config-dir", "run", "--config-name", "config"]):
        capsys.readouterr()
        assert run(words) == 2
        stderr = capsys.readouterr().err
        assert len(stderr.splitlines()) == 1
        assert all(part in stderr for part in said), stderr
        if old == "seed: 0":
            assert "run/config.yaml: " in stderr
    assert [path.name for path in here.iterdir()] == ["run"]
