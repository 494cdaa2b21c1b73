"""The `logger` group: TensorBoard, none, several, and a user's own by its `_target_`."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, curves_of, leaves, state_of, status_of
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from wgan_cli.commands import evaluate, sample
from wgan_cli.commands.composition import Composer
from wgan_cli.commands.sweep_values import jobs_of
from wgan_cli.commands.train import run
from wgan_cli.config import validate
from wgan_cli.errors import ConfigError
from wgan_cli.loggers import Logger

WORDS = [*TINY, "log_every=1", "eval_samples=8", "metrics=[wasserstein/exact]"]
OWN = "--config-dir=options"
MODULE = '''
import numpy as np
from wgan_cli.loggers import Logger

EVENTS = []


class Mine(Logger):
    """Keep everything."""

    def __init__(self, project, level=1):
        self.project, self.level = project, level

    def start(self, run):
        EVENTS.append(("start", self.project, run))

    def log(self, point):
        kinds = (point.scalars, point.pictures, point.histograms, point.text)
        EVENTS.append(("log", point.step, *map(dict, kinds)))

    def rollback(self, step):
        EVENTS.append(("rollback", step))

    def finish(self, final):
        EVENTS.append(("finish", dict(final)))

    def close(self):
        EVENTS.append(("close", self.project))


class Failing(Mine):
    def log(self, point):
        if point.step == 2:
            raise KeyError("no network")


class FailingAtTheEnd(Mine):
    def close(self):
        raise ConnectionRefusedError(111, "Connection refused")


class Changing(Mine):
    def log(self, point):
        for values in (*point.histograms.values(), *point.pictures.values()):
            values[:] = 0


class NoLogger:
    pass
'''
OPTIONS = {
    "mine": {"mine": {"_target_": "my_loggers.Mine", "project": "first"}},
    "other": {"other": {"_target_": "my_loggers.Mine", "project": "second"}},
    "failing": {"failing": {"_target_": "my_loggers.Failing", "project": "third"}},
    "changing": {"changing": {"_target_": "my_loggers.Changing", "project": "fourth"}},
}


@pytest.fixture
def mine(here: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Write a module of a user, and config options that name it."""
    (here / "my_loggers.py").write_text(MODULE)
    (here / "options" / "logger").mkdir(parents=True)
    for name, node in OPTIONS.items():
        (here / "options" / "logger" / f"{name}.yaml").write_text(yaml.safe_dump(node))
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.delitem(sys.modules, "my_loggers", raising=False)
    return importlib.import_module("my_loggers")


def logged(events: list[Any]) -> dict[int, dict[str, dict[str, Any]]]:
    """What was logged, by step and kind."""
    kinds = ("scalars", "pictures", "histograms", "text")
    return {
        event[1]: dict(zip(kinds, event[2:], strict=True)) for event in events if event[0] == "log"
    }


def saved_loggers(folder: Path) -> dict[str, Any]:
    loggers: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())["logger"]
    return loggers


def test_a_users_own_logger_receives_all_that_a_run_measures(here: Path, mine: ModuleType):
    words = ["metrics=[wasserstein/exact,critic/weights]", "logger.mine.project=runs"]
    assert run([*WORDS, *words, OWN, "logger=mine", "hydra.run.dir=out"]) == 0
    kinds = [event[0] for event in mine.EVENTS]
    assert kinds == ["start", "log", "log", "log", "finish", "close"]
    _, project, info = mine.EVENTS[0]
    assert project == "runs"
    assert (info.folder, info.step, info.first) == (Path("out"), 0, True)
    config = yaml.safe_load((here / "out" / "config.yaml").read_text())
    assert info.settings == config
    points = logged(mine.EVENTS)
    assert list(points) == [0, 1, 2]
    assert set(points[0]["pictures"]) == {"samples/real", "samples/fake", "samples/fake_raw"}
    assert yaml.safe_load(points[0]["text"]["config"].strip("`").removeprefix("yaml")) == config
    # The very numbers, pictures and weights of the run's files.
    for line in map(json.loads, (here / "out" / "metrics.jsonl").read_text().splitlines()):
        assert points[line.pop("step")]["scalars"] == line
    assert "wasserstein/exact" in points[2]["scalars"]
    assert set(points[2]["pictures"]) == {"samples/fake", "samples/fake_raw", "critic/weights"}
    png = np.asarray(Image.open(here / "out" / "samples" / "step_00000002.png"))
    assert np.array_equal(points[2]["pictures"]["samples/fake"], png)
    critic = {
        f"critic_weights/{key}": weight for key, weight in state_of(here / "out")["critic"].items()
    }
    assert set(points[2]["histograms"]) == set(critic)
    for tag, values in points[2]["histograms"].items():
        assert np.array_equal(values, critic[tag].numpy())
    assert mine.EVENTS[4][1] == status_of(here / "out")["final"]
    assert not (here / "out" / "tensorboard").exists()


def test_a_list_of_loggers_gets_the_same_points(here: Path, mine: ModuleType):
    assert run([*WORDS, OWN, "logger=[tensorboard,mine,other]", "hydra.run.dir=out"]) == 0
    starts = [event[1] for event in mine.EVENTS if event[0] == "start"]
    assert starts == ["first", "second"]
    logs = [event for event in mine.EVENTS if event[0] == "log"]
    assert len(logs) == 6
    assert all(one[1] == other[1] for one, other in zip(logs[::2], logs[1::2], strict=True))
    assert list(saved_loggers(here / "out")) == ["tensorboard", "mine", "other"]
    assert curves_of(here / "out")["critic/wasserstein"] == [1, 2]


def test_without_a_logger_the_run_is_the_same(here: Path, capsys: pytest.CaptureFixture[str]):
    assert run([*WORDS, "logger=none", "hydra.run.dir=none"]) == 0
    assert "tensorboard" not in capsys.readouterr().out
    assert run([*WORDS, "hydra.run.dir=usual"]) == 0
    assert saved_loggers(here / "none") == {}
    assert not (here / "none" / "tensorboard").exists()
    assert same_training(here / "none", here / "usual")
    files = [
        {path.relative_to(here / name).as_posix() for path in (here / name).rglob("*")}
        for name in ("none", "usual")
    ]
    assert {name.partition("/")[0] for name in files[1] - files[0]} == {"tensorboard"}


def test_a_logger_cannot_change_what_is_trained(here: Path, mine: ModuleType):
    words = [*WORDS, "steps=4", "sample_every=1"]
    assert run([*words, OWN, "logger=changing", "hydra.run.dir=changing"]) == 0
    assert run([*words, "hydra.run.dir=usual"]) == 0
    assert same_training(here / "changing", here / "usual")


def same_training(one: Path, other: Path) -> bool:
    first, second = leaves(state_of(one)), leaves(state_of(other))
    tensors = [key for key, value in first.items() if isinstance(value, torch.Tensor)]
    assert len(tensors) > 10
    return all(torch.equal(first[key], second[key]) for key in tensors)


def test_a_resume_keeps_the_logger_or_takes_another(here: Path, mine: ModuleType):
    assert run([*WORDS, "hydra.run.dir=out"]) == 0
    assert run([OWN, "resume=out", "steps=3", "logger=[mine]"]) == 0
    _, _, info = mine.EVENTS[0]
    assert (info.step, info.first) == (2, False)
    assert list(logged(mine.EVENTS)) == [3]
    assert list(saved_loggers(here / "out")) == ["mine"]
    # TensorBoard was left out for that step.
    assert curves_of(here / "out")["critic/wasserstein"] == [1, 2]
    assert run(["resume=out", "steps=4", "--trust", "my_loggers"]) == 0
    assert list(logged(mine.EVENTS)) == [3, 4]
    assert run(["resume=out", "steps=5", "logger=tensorboard", "--trust", "my_loggers"]) == 0
    assert list(logged(mine.EVENTS)) == [3, 4]
    assert curves_of(here / "out")["critic/wasserstein"] == [1, 2, 5]


def test_a_strangers_logger_is_not_built(
    here: Path, mine: ModuleType, capsys: pytest.CaptureFixture[str]
):
    assert run([*WORDS, OWN, "logger=mine", "hydra.run.dir=out"]) == 0
    mine.EVENTS.clear()
    assert run(["resume=out", "steps=3"]) == 4
    assert "--trust my_loggers" in capsys.readouterr().err
    assert not mine.EVENTS
    # Neither sampling nor evaluating builds it.
    assert sample.run(["out"]) == 0
    assert evaluate.run(["out", "--metrics", "exact", "--n", "8"]) == 0
    assert not mine.EVENTS


def test_a_run_is_repeated_with_its_logger(here: Path, mine: ModuleType):
    assert run([*WORDS, OWN, "logger=mine", "hydra.run.dir=out"]) == 0
    mine.EVENTS.clear()
    words = ["--config-dir=out", "--config-name=config", "--trust", "my_loggers"]
    assert run([*words, "hydra.run.dir=again"]) == 0
    assert mine.EVENTS[0][1] == "first"
    assert saved_loggers(here / "again") == saved_loggers(here / "out")


def test_a_config_from_before_the_group_means_tensorboard(here: Path):
    assert run([*WORDS, "hydra.run.dir=out"]) == 0
    saved = here / "out" / "config.yaml"
    config = yaml.safe_load(saved.read_text())
    assert list(config.pop("logger")) == ["tensorboard"]
    saved.write_text(yaml.safe_dump(config))
    assert run(["resume=out", "steps=3"]) == 0
    assert curves_of(here / "out")["critic/wasserstein"] == [1, 2, 3]
    assert list(saved_loggers(here / "out")) == ["tensorboard"]


def test_a_rollback_reaches_every_logger(here: Path, mine: ModuleType):
    diverging = ["constraint=none", "optimizer=sgd", "optimizer.lr=1e4", "rollback.times=1"]
    few = [word for word in WORDS if not word.startswith("clip")]
    words = [*few, *diverging, "steps=50", "on_divergence=rollback", "checkpoint_every=50"]
    assert run([*words, OWN, "logger=mine", "hydra.run.dir=out"]) == 5
    rollbacks = [n for n, event in enumerate(mine.EVENTS) if event[0] == "rollback"]
    assert len(rollbacks) == 1
    assert mine.EVENTS[rollbacks[0]][1] == 0
    _, step, _, _, _, text = mine.EVENTS[rollbacks[0] + 1]
    assert (step, list(text)) == (0, ["returns"])
    assert "back to 0" in text["returns"]
    # It diverges again: no final numbers, but the log is closed.
    assert [event[0] for event in mine.EVENTS[-2:]] == ["log", "close"]


def test_a_failing_logger_is_named_and_the_others_are_closed(
    here: Path, mine: ModuleType, capsys: pytest.CaptureFixture[str]
):
    words = [*WORDS, OWN, "logger=[failing,mine]", "checkpoint_every=1", "hydra.run.dir=out"]
    assert run(words) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    line = 1 + MODULE.splitlines().index('            raise KeyError("no network")')
    expected = f"failed: KeyError: 'no network' (my_loggers.py, line {line})"
    assert f"logger.failing (my_loggers.Failing) {expected}" in said
    assert status_of(here / "out")["exit_code"] == 1
    assert "my_loggers.Failing" in status_of(here / "out")["message"]
    assert [event[1] for event in mine.EVENTS if event[0] == "close"] == ["third", "first"]
    assert not [event for event in mine.EVENTS if event[0] == "finish"]
    # The run goes on without it.
    assert run(["resume=out", "logger=none", "--trust", "my_loggers"]) == 0


def test_a_logger_that_fails_when_it_is_closed_fails_the_run(
    here: Path, mine: ModuleType, capsys: pytest.CaptureFixture[str]
):
    target = "logger.mine._target_=my_loggers.FailingAtTheEnd"
    assert run([*WORDS, OWN, "logger=[mine,other]", target, "hydra.run.dir=out"]) == 1
    said = capsys.readouterr().err
    # Not the words for a disk.
    assert "failed: ConnectionRefusedError: [Errno 111] Connection refused" in said
    assert mine.EVENTS[-1] == ("close", "second")
    assert status_of(here / "out")["state"] == "failed"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["logger=mine", "+logger.mine.colour=red"], "unexpected keyword argument 'colour'"),
        (["logger=mine", "~logger.mine.project"], "missing a required argument: 'project'"),
        (["logger=mine", "logger.mine._target_=my_loggers.NoLogger", "~logger.mine.project"],
         "derive it from wgan_cli.loggers.Logger"),
        (["logger=mine", "logger.mine._target_=nowhere.Mine"], "there is no package 'nowhere'"),
        (["logger=mine", "logger.mine._target_=wgan_cli.losses.Hinge"], "made for another group"),
        (["logger=tensrboard"], "Did you mean tensorboard?"),
        (["logger=null"], "type logger=none"),
        (["logger=[]"], "type logger=none"),
        (["~logger"], "type logger=none"),
        (["+logger.tensorboard.colour=red"], "logger.tensorboard.colour is no setting"),
        (["+logger.colour=red"], "logger.colour is no setting"),
    ],
)  # fmt: skip
def test_a_wrong_logger_is_refused_before_a_folder_is_made(
    words: list[str],
    expected: str,
    here: Path,
    mine: ModuleType,
    capsys: pytest.CaptureFixture[str],
):
    assert run([*WORDS, OWN, *words, "hydra.run.dir=out"]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said
    assert not (here / "out").exists()
    assert not mine.EVENTS


def test_the_example_of_the_docs_logs_every_scalar(here: Path, monkeypatch: pytest.MonkeyPatch):
    page = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)```", page, re.S))
    (here / "my_loggers.py").write_text(blocks["python"])
    (here / "options" / "logger").mkdir(parents=True)
    (here / "options" / "logger" / "csv.yaml").write_text(blocks["yaml"])
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.delitem(sys.modules, "my_loggers", raising=False)
    words = [*WORDS, OWN, "logger=[tensorboard,csv]", "logger.csv.digits=3"]
    assert run([*words, "hydra.run.dir=out"]) == 0
    lines = [json.loads(line) for line in (here / "out" / "metrics.jsonl").read_text().splitlines()]
    expected = [
        f"{line['step']},{tag},{value:.3g}"
        for line in lines
        for tag, value in line.items()
        if tag != "step"
    ]
    assert (here / "out" / "scalars.csv").read_text().splitlines() == expected


def test_a_sweep_over_loggers_composes_a_job_for_each():
    jobs = jobs_of(Composer().choices(["logger=tensorboard,none,[none,tensorboard]"]))
    loggers = [validate(without_hydra(Composer().compose(words))).logger for words in jobs]
    assert [list(node) for node in loggers] == [["tensorboard"], [], ["tensorboard"]]


def without_hydra(composed: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(composed)
    assert isinstance(plain, dict)
    return {str(key): node for key, node in plain.items() if key != "hydra"}


def test_a_config_may_not_hold_something_else_under_logger():
    plain = without_hydra(Composer().compose([]))
    for node in ("tensorboard", {"tensorboard": {}}, {"tensorboard": "yes"}):
        with pytest.raises(ConfigError, match="logger"):
            validate({**plain, "logger": node})


def test_the_help_lists_the_group(capsys: pytest.CaptureFixture[str]):
    assert run(["--help"]) == 0
    page = capsys.readouterr().out
    assert "\n  logger=\n    tensorboard " in page
    assert "\n    none " in page


def test_every_method_of_the_base_class_may_be_left_out(tmp_path: Path):
    logger = Logger()
    for method, arguments in (("rollback", (1,)), ("finish", ({},)), ("close", ())):
        assert getattr(logger, method)(*arguments) is None


def test_a_logger_that_does_not_exist_is_named(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*TINY, "logger=[none,csv]"]) == 2
    assert "logger=csv: there is no such option" in capsys.readouterr().err
