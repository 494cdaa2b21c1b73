"""A run from elsewhere: whatever its config or checkpoints hold, none of it is ever executed."""

from __future__ import annotations

import ast
import hashlib
import io
import itertools
import math
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
import yaml
from conftest import TINY, checkpoints_of, composed, exhaustive_beyond, trained

import wgan_cli
from wgan_cli.commands import evaluate, sample
from wgan_cli.commands.train import run
from wgan_cli.files import write_atomically
from wgan_cli.training.checkpoint import load_checkpoint, save_checkpoint

# What every attack tries to make; in the folder that a command is run in.
TRACE = "executed"
Config = dict[str, Any]


def payload(function: str = "os.mkdir", **more: Any) -> Config:
    return {"_target_": function, "path": TRACE, **more}


class Payload:
    """Makes the trace where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (TRACE,)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        assert run([*TINY, "ema=0.5", "checkpoint_every=1", f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture
def theirs(honest: Path, here: Path) -> Path:
    """A run folder that somebody else has made."""
    return shutil.copytree(honest, here / "theirs")


def assert_refused(codes: list[int], capsys: pytest.CaptureFixture[str], here: Path) -> None:
    """By exit code 4 or 2, in plain words, and nothing was executed or left."""
    said = capsys.readouterr().err
    assert set(codes) <= {4, 2}, said
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("wgan-")]
    assert len(lines) >= len(codes), said
    assert all(len(line) < 600 for line in lines)
    assert not (here / TRACE).exists()
    assert sorted(path.name for path in here.iterdir()) == ["theirs"]


def gone_on_with() -> list[int]:
    """Exit codes of what reads a run's config.yaml."""
    return [
        run(["resume=theirs", "steps=4"]),
        run(["--config-dir", "theirs", "--config-name", "config", "hydra.run.dir=again"]),
    ]


def looked_at(run_or_checkpoint: str = "theirs") -> list[int]:
    """Exit codes of what reads a checkpoint and the config in it."""
    return [
        sample.run([run_or_checkpoint, "--n", "4", "--out", "theirs/samples.png"]),
        evaluate.run([run_or_checkpoint, "--metrics", "exact", "--n", "4"]),
    ]


LOGGING = {
    "version": 1,
    "handlers": {"evil": {"()": "os.mkdir", "path": TRACE}},
    "root": {"handlers": ["evil"]},
}
SHIPPED = "wgan_cli.models.mlp.Generator"


def at(key: str, value: Any) -> Callable[[Config], None]:
    """Sets a dotted key, whose nodes are made where there are none."""

    def change(config: Config) -> None:
        *way, last = key.split(".")
        for name in way:
            config = config.setdefault(name, {})
        config[last] = value

    return change


def named(target: str) -> Callable[[Config], None]:
    return at("model.generator", payload(target))


CREATED = "${oc.create:{_target_:os.mkdir,path:" + TRACE + "}}"
# Of the saved config, in config.yaml or in a checkpoint.
NAMES = {
    "a function": named("os.mkdir"),
    "through torch": named("torch.os.mkdir"),
    "through torch.nn": named("torch.nn.init.torch.os.mkdir"),
    "through torch.optim": named("torch.optim.sgd.torch.os.mkdir"),
    "through wgan_cli": named("wgan_cli.run_folder.os.mkdir"),
    "a function of wgan_cli": named("wgan_cli.run_folder.make_folder"),
    "a method of a class": named("pathlib.Path.mkdir"),
    "a name below a class": named("torch.nn.Linear.__init__.__globals__"),
    "Hydra's own": at("model.generator", {"_target_": "hydra.utils.instantiate", **payload()}),
    "Hydra's lookup": at(
        "model.generator", {"_target_": "hydra.utils.get_method", "path": "os.mkdir"}
    ),
    "a data set": at("dataset", payload()),
    "a loss": at("loss", payload()),
    "a constraint": at("constraint", payload()),
    "an optimizer": at("optimizer", payload()),
    "an optimizer's network": at("optimizer.critic", payload()),
    "in a setting": at("model.generator.width", payload()),
    "in a list": at("model.generator.depth", [[payload()]]),
    "in a root setting": at("steps", payload()),
    "in a root list": at("metrics", [payload()]),
    "in a new setting": at("model.generator.more.and_more", payload()),
    "in what is recommended": at("dataset.recommended.steps", payload()),
    "positional": at("model.generator._args_", [payload()]),
    "partial": at("model.generator.width", payload(_partial_=False)),
    "not recursive": at("model.generator.width", payload(_recursive_=False, _convert_="object")),
    "a module of torch.nn around it": at(
        "model.generator", {"_target_": "torch.nn.Sequential", "_args_": [payload()]}
    ),
    "the config itself": lambda config: config.update(payload()),
    "a target that is a list": at("model.generator._target_", ["os.mkdir"]),
    "a target that is a node": at("model.generator._target_", payload()),
    "a target that is a number": at("model.generator._target_", 3),
    "no target": at("model.generator._target_", None),
    "a reference": at("model.generator.width", "${oc.env:HOME}"),
    "a reference in a target": at("model.generator._target_", "${oc.env:HOME}"),
    "a reference in a list": at("model.generator.depth", [["${seed}"]]),
    "a node made of text": at("model.generator.width", CREATED),
    "a node made of text, in text": at("model.generator.width", f"a {CREATED}"),
    "a resolver of their own": at("model.generator.width", "${their_own:1}"),
    "Hydra's resolver": at("model.generator.width", "${hydra:runtime.cwd}"),
}
ELSEWHERE = ("a data set", "a loss", "a constraint", "an optimizer", "in a root list")
# Of config.yaml alone.
HYDRAS = {
    "callbacks": at("hydra.callbacks.evil", payload()),
    "a launcher": at("hydra.launcher", payload()),
    "a sweeper": at("hydra.sweeper", payload()),
    "a logger's factory": at("hydra.job_logging", LOGGING),
    "Hydra's logger's factory": at("hydra.hydra_logging", LOGGING),
    "another folder": at("hydra.run.dir", TRACE),
    "another output folder": at("hydra.output_subdir", f"../{TRACE}"),
    "the environment": at("hydra.job.env_set", {"LD_PRELOAD": "evil.so"}),
    "a search path": at("hydra.searchpath", ["file://theirs/evil"]),
    "defaults": at("defaults", [{"model": "evil"}, "_self_"]),
    "empty defaults and callbacks": lambda config: config.update(
        defaults=[], hydra={"callbacks": {"evil": payload()}}
    ),
    "empty defaults and a function": lambda config: config.update(
        defaults=[], model={**config["model"], "generator": payload()}
    ),
    "defaults that are no list": at("defaults", None),
    "defaults on a search path": lambda config: config.update(
        defaults=[{"model": "evil"}, "_self_"], hydra={"searchpath": ["file://theirs/evil"]}
    ),
}
TAGS = {
    "python/object/apply": f"seed: !!python/object/apply:os.mkdir [{TRACE}]",
    "python/object/new": f"seed: !!python/object/new:os.mkdir [{TRACE}]",
    "python/name": "seed: !!python/name:os.mkdir",
    "python/module": "seed: !!python/module:os",
    "a path": "model: !!python/object/apply:pathlib.Path ['${oc.env:HOME}']",
}


@pytest.mark.parametrize("attack", [*NAMES, *HYDRAS])
def test_a_saved_config_builds_what_is_trusted_alone(
    attack: str, theirs: Path, here: Path, capsys: pytest.CaptureFixture[str]
):
    saved = theirs / "config.yaml"
    config = yaml.safe_load(saved.read_text())
    {**NAMES, **HYDRAS}[attack](config)
    saved.write_text(yaml.safe_dump(config))
    evil = theirs / "evil" / "model"
    evil.mkdir(parents=True)
    model = {"name": "evil", "generator": payload(), "critic": payload()}
    (evil / "evil.yaml").write_text(yaml.safe_dump(model))
    capsys.readouterr()
    assert_refused(gone_on_with(), capsys, here)


@pytest.mark.parametrize("tag", TAGS)
def test_a_saved_configs_yaml_makes_no_objects(
    tag: str, theirs: Path, here: Path, capsys: pytest.CaptureFixture[str]
):
    saved = theirs / "config.yaml"
    key = TAGS[tag].partition(":")[0]
    lines = [line for line in saved.read_text().splitlines() if not line.startswith(f"{key}:")]
    if key == "model":
        config = yaml.safe_load(saved.read_text())
        del config["model"]
        lines = yaml.safe_dump(config).splitlines()
    saved.write_text("\n".join([*lines, TAGS[tag]]))
    capsys.readouterr()
    assert_refused(gone_on_with(), capsys, here)


@pytest.mark.parametrize("attack", exhaustive_beyond(["a function", *ELSEWHERE], NAMES))
def test_a_checkpoints_config_builds_what_is_trusted_alone(
    attack: str, theirs: Path, here: Path, capsys: pytest.CaptureFixture[str]
):
    path = checkpoints_of(theirs)[-1]
    state = load_checkpoint(path)
    NAMES[attack](state["config"])
    save_checkpoint(path, state)
    capsys.readouterr()
    sampled, evaluated = looked_at()
    assert_refused([sampled, evaluated] if sampled else [evaluated], capsys, here)
    # A sample is drawn from the model alone; the other groups' objects are not built for it.
    assert sampled or attack in ELSEWHERE


def nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def doubled(times: int) -> list[Any]:
    inner: list[Any] = [1]
    for _ in range(times):
        inner = [inner, inner]
    return inner


def rollback(**changed: Any) -> Config:
    return {"at": 2, "to": 1, "lr_factor": 0.5, "reason": "", **changed}


# Of a checkpoint, sealed as one of this program's: what is no tensor, number or text,
VARIABLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
PICKLES: dict[str, Callable[[Config], Any]] = {
    "a payload as a network": at("generator", Payload()),
    "a payload in a network": at("generator.net", Payload()),
    "a payload as a config": at("config", Payload()),
    "a payload in a config": at("config.model.generator.width", Payload()),
    "a payload as a step": at("step", Payload()),
    "a payload as one more entry": at("more", [Payload()]),
    "a payload as the format": at("format", Payload()),
    "a payload as a key": lambda state: state.update({Payload(): 1}),
    "a function": at("generator", os.mkdir),
    "a class": at("generator", Path),
    "a whole module": at("generator", torch.nn.Linear(1, 1)),
    "an array of objects": at("generator", np.array([Payload()], dtype=object)),
}
# what hides a reference or makes no sense,
STATES: dict[str, Callable[[Config], Any]] = {
    "a tuple that hides a node": at("config.model.generator.width", (CREATED,)),
    "a tuple that hides a reference": at("config.model.generator.depth", ("${oc.env:HOME}",)),
    "bytes": at("config.model.generator.width", b"${oc.env:HOME}"),
    "a tensor in the config": at("config.model.generator.width", torch.ones(1)),
    "a step that is text": at("step", f"../../../{TRACE}"),
    "a step that is a tensor": at("step", torch.ones(2)),
    "a format that is a tensor": at("format", torch.ones(2)),
    "a step below 0": at("step", -1),
    "no step": lambda state: state.pop("step"),
    "no config": lambda state: state.pop("config"),
    "no model": lambda state: state["config"].pop("model"),
    "no network": lambda state: state["config"]["model"].pop("generator"),
    "a config that is a list": at("config", [payload()]),
    "a config that is text": at("config", CREATED),
    "a config of other types": at("config.latent_dim", "many"),
    "a size beyond all bounds": at("config.latent_dim", 10**30),
    "no shape": lambda state: state.pop("sample_shape"),
    "a shape that is text": at("sample_shape", TRACE),
    "a shape of text": at("sample_shape", [TRACE]),
    "an empty shape": at("sample_shape", []),
    "a shape below 0": at("sample_shape", [-1, 8, 8]),
    "no weights": lambda state: state.pop("generator"),
    "weights that are a list": at("generator_ema", [1]),
    "weights that are text": at("generator_ema.net", TRACE),
    "weights that are numbers": lambda state: state.update(
        generator_ema=dict.fromkeys(state["generator_ema"], 1)
    ),
    "weights under numbers": at("generator_ema", {1: torch.ones(1)}),
    "weights of another shape": lambda state: state.update(
        generator_ema={name: torch.ones(3, 3, 3) for name in state["generator_ema"]}
    ),
    "weights under paths": lambda state: state.update(
        generator_ema={f"../../{TRACE}": torch.ones(1)}
    ),
    "sides beyond all bounds": at("sample_shape", [10**9, 10**9]),
    "sides of another run": at("sample_shape", [1, 9, 9]),
    "a step beyond all bounds": at("step", 10**400),
    "a width of another run": at("config.model.generator.width", 2_000_000_000),
    "data without sizes": at("data", {}),
    "data with a size of text": at("data", {"training": 5, "held_out": TRACE, "classes": None}),
    "a config in itself": lambda state: state["config"].update(more=state["config"]),
    "a config fifty lists deep": at("config.more", nested(50)),
    "a list that stands for a billion values": at("config.more", doubled(30)),
    "a rollback to a rate of NaN": at("returns", [rollback(lr_factor=math.nan)]),
    "a rollback to no step": at("returns", [rollback(to=-1)]),
    "classes that are text": at("classes", TRACE),
    "classes below 0": at("classes", -1),
}
# and what only a run that goes on reads.
OPTIMIZERS: dict[str, Callable[[Config], Any]] = {
    "no optimizer": lambda state: state.pop("critic_optimizer"),
    "an optimizer that is text": at("critic_optimizer", TRACE),
    "an optimizer of other parameters": at("critic_optimizer.param_groups", [{"params": [7]}]),
    "an optimizer of text": at("critic_optimizer.param_groups", TRACE),
    "an optimizer's state that is text": at("critic_optimizer.state", TRACE),
    "an optimizer's state of text": at("critic_optimizer.state", {0: {"square_avg": TRACE}}),
    "an optimizer without a rate": lambda state: state["critic_optimizer"]["param_groups"][0].pop(
        "alpha"
    ),
    "an optimizer with a rate of text": lambda state: state["critic_optimizer"]["param_groups"][
        0
    ].update(alpha=TRACE),
    "an optimizer's state without a tensor": lambda state: [
        entry.pop("square_avg") for entry in state["critic_optimizer"]["state"].values()
    ],
    "an optimizer's state of another shape": lambda state: [
        entry.update(square_avg=torch.ones(7))
        for entry in state["generator_optimizer"]["state"].values()
    ],
    "an optimizer's state of lists": lambda state: [
        entry.update(square_avg=[1.0]) for entry in state["generator_optimizer"]["state"].values()
    ],
    "an optimizer's count that is text": lambda state: [
        entry.update(step=TRACE) for entry in state["generator_optimizer"]["state"].values()
    ],
    "a counter that is text": at("window.steps", TRACE),
    "a counter beyond all bounds": at("window.critic_updates", 10**400),
    "a counter that is a truth": at("window.steps", True),
    "a window that is text": at("window", TRACE),
    "a window of text": lambda state: state.update(window=dict.fromkeys(state["window"], TRACE)),
    "data that are text": at("data", TRACE),
}


def attacked(theirs: Path, attack: Callable[[Config], Any]) -> None:
    """Leaves `theirs` with one checkpoint, altered by the attack and sealed again."""
    older, path = checkpoints_of(theirs)
    older.unlink()
    state = load_checkpoint(path)
    attack(state)
    save_checkpoint(path, state)


@pytest.fixture(scope="module")
def four_steps() -> Any:
    return composed([*TINY, "ema=0.5", "checkpoint_every=1", "steps=4"])


def read_by_all(four_steps: Any) -> list[int]:
    """Exit codes of what reads a checkpoint."""
    return [trained(four_steps, Path("theirs"), resume="theirs"), *looked_at()]


@pytest.mark.parametrize(
    ("attack", "variable"),
    exhaustive_beyond(
        [*((attack, None) for attack in PICKLES), ("a payload in a network", VARIABLE)],
        itertools.product(PICKLES, [None, VARIABLE]),
    ),
)
def test_no_pickle_is_executed_whatever_the_environment(
    attack: str,
    variable: str | None,
    theirs: Path,
    here: Path,
    four_steps: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    attacked(theirs, PICKLES[attack])
    if variable is not None:
        monkeypatch.setenv(variable, "1")
        # The variable does what it is feared for.
        assert torch.load(checkpoints_of(theirs)[0]) is not None
        (here / TRACE).rmdir() if "payload" in attack or "array" in attack else None
    capsys.readouterr()
    assert_refused(read_by_all(four_steps), capsys, here)


@pytest.mark.parametrize("attack", [*STATES, *OPTIMIZERS])
def test_nothing_in_a_sealed_checkpoint_is_believed(
    attack: str, theirs: Path, here: Path, four_steps: Any, capsys: pytest.CaptureFixture[str]
):
    attacked(theirs, {**STATES, **OPTIMIZERS}[attack])
    capsys.readouterr()
    codes = read_by_all(four_steps)
    assert_refused(codes if attack in STATES else codes[:1], capsys, here)


def as_sealed(content: bytes) -> bytes:
    """Any bytes with what a checkpoint of this program ends in."""
    mark = b"wgan-train sha256="
    digest = hashlib.sha256(content).hexdigest().encode()
    return content + struct.pack("<H", len(mark) + len(digest)) + mark + digest


def saved_by_torch(value: Any, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


def tar_of(members: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/"
        archive.addfile(link)
    return buffer.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def zipped_zeros() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/version", b"3")
        archive.writestr("archive/data.pkl", bytes(100_000_000))
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)), buffer)
    return buffer.getvalue()


PICKLED = pickle.dumps(Payload())
ABOVE = {f"../../{TRACE}": b"", f"archive/../../{TRACE}": b"", f"../{TRACE}/data.pkl": b""}
FILES: dict[str, Callable[[], bytes]] = {
    "a pickle": lambda: PICKLED,
    "a pickle in two parts": lambda: pickle.dumps(1) + PICKLED,
    "torch's old format": lambda: saved_by_torch(Payload(), _use_new_zipfile_serialization=False),
    "torch's oldest format": lambda: tar_of({"pickle": PICKLED, "storages": PICKLED}),
    "torch's format": lambda: saved_by_torch({"format": 1, "step": Payload()}),
    "torch's format, all of it": lambda: saved_by_torch(Payload()),
    "a script": script,
    "a zip": lambda: zip_of({"archive/data.pkl": PICKLED, "archive/version": b"3"}),
    "a zip with names above it": lambda: zip_of({**ABOVE, f"../{TRACE}/version": b"3"}),
    "a zip that fills the memory": zipped_zeros,
    "a tar with names above it": lambda: tar_of(ABOVE),
}


@pytest.mark.parametrize("seal", [bytes, as_sealed], ids=["bare", "sealed"])
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*TorchScript")
def test_no_other_file_is_executed_under_a_checkpoints_name(
    kind: str,
    seal: Callable[[bytes], bytes],
    theirs: Path,
    here: Path,
    four_steps: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    older, path = checkpoints_of(theirs)
    older.unlink()
    path.write_bytes(seal(FILES[kind]()))
    capsys.readouterr()
    assert_refused(read_by_all(four_steps), capsys, here)
    assert_refused(looked_at(str(path)), capsys, here)


def test_names_within_a_checkpoint_leave_no_folder(
    theirs: Path, here: Path, four_steps: Any, capsys: pytest.CaptureFixture[str]
):
    older, path = checkpoints_of(theirs)
    older.unlink()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    path.write_bytes(as_sealed(zip_of({**members, **ABOVE, f"/{here}/{TRACE}": b""})))
    for code in read_by_all(four_steps):
        assert code in (0, 4)
    assert "Traceback" not in capsys.readouterr().err
    assert list(here.parent.rglob(TRACE)) == []


LINKS = {
    "resume": [
        *(".lock", "train.log", "overrides.yaml", "environment.json", "metrics.jsonl"),
        *("status.json", "checkpoints/step_00000004.pt", "samples/step_00000004.png"),
    ],
    "sample": ["samples/n64_seed0.png"],
    "eval": ["evaluation.json"],
}


@pytest.mark.parametrize("name", ["checkpoints", "samples", "tensorboard"])
def test_nothing_is_written_into_a_linked_folder_that_came_with_a_run(
    name: str,
    theirs: Path,
    here: Path,
    tmp_path_factory: pytest.TempPathFactory,
    four_steps: Any,
    capsys: pytest.CaptureFixture[str],
):
    mine = tmp_path_factory.mktemp("elsewhere") / name
    (theirs / name).rename(mine)
    (theirs / name).symlink_to(mine)
    before = sorted(mine.iterdir())
    assert trained(four_steps, theirs, resume="theirs") == 4
    assert "is a link" in capsys.readouterr().err
    assert sorted(mine.iterdir()) == before


def test_a_planted_temporary_file_is_not_written_through(tmp_path: Path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / f".answer.{os.getpid()}.tmp").symlink_to(mine)
    write_atomically(tmp_path / "answer", b"theirs")
    assert (tmp_path / "answer").read_bytes() == b"theirs"
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("there", [False, True], ids=["nowhere", "to a file"])
@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command, names in LINKS.items() for name in names]
)
def test_nothing_is_written_through_a_link_that_came_with_a_run(
    command: str,
    name: str,
    there: bool,
    theirs: Path,
    here: Path,
    tmp_path_factory: pytest.TempPathFactory,
    four_steps: Any,
    capsys: pytest.CaptureFixture[str],
):
    target = tmp_path_factory.mktemp("elsewhere") / "mine"
    if there:
        target.write_text("mine")
    (theirs / name).unlink(missing_ok=True)
    (theirs / name).symlink_to(target)
    capsys.readouterr()
    answers = {
        "resume": lambda: trained(four_steps, theirs, resume="theirs"),
        "sample": lambda: sample.run(["theirs"]),
        "eval": lambda: evaluate.run(["theirs", "--metrics", "exact", "--n", "4"]),
    }
    assert answers[command]() == 4
    said = capsys.readouterr().err
    assert f"{name} is a link to {target}" in said
    assert "Traceback" not in said
    assert [path.read_text() for path in target.parent.iterdir()] == ["mine"] * there


TARS = {
    "cifar10": "cifar-10-python.tar.gz",
    "cifar100": "cifar-100-python.tar.gz",
    "stl10": "stl10_binary.tar.gz",
}


@pytest.mark.parametrize("name", TARS)
@pytest.mark.parametrize("place", ["there", "fetched"])
def test_names_in_a_data_sets_archive_leave_no_folder(
    name: str,
    place: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    evil = tar_of({**ABOVE, f"{here}/{TRACE}": b""}, mode="w:gz")
    root = here / "data" / "deep" / "down"
    root.mkdir(parents=True)
    if place == "there":
        (root / TARS[name]).write_bytes(evil)

    def fetch(url: str, file: str, *more: Any, **named: Any) -> None:
        if place == "there":
            raise OSError("no network")
        Path(file).write_bytes(evil)

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", fetch)
    assert run([*TINY, f"dataset={name}", f"dataset.root={root}"]) == 3
    assert "Traceback" not in capsys.readouterr().err
    assert [path.name for path in here.rglob("*")] in (
        ["data", "deep", "down"],
        ["data", "deep", "down", TARS[name]],
    )


def test_a_data_sets_own_pickles_are_its_makers_or_not_read(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    sets = torchvision.datasets
    for kind in (sets.CIFAR10, sets.CIFAR100):
        folder = here / "data" / kind.base_folder
        folder.mkdir(parents=True)
        for file in [entry[0] for entry in kind.train_list + kind.test_list] + [
            kind.meta["filename"]
        ]:
            (folder / file).write_bytes(PICKLED)
    processed = here / "data" / "MNIST" / "processed"
    processed.mkdir(parents=True)
    for file in ("training.pt", "test.pt"):
        torch.save(Payload(), processed / file)
    np.savez(here / "data" / "a.npz", images=np.array([Payload()], dtype=object))
    (here / "data" / "b.npy").write_bytes(PICKLED)
    for words in (
        ["dataset=cifar10"],
        ["dataset=cifar100"],
        ["dataset=mnist"],
        ["dataset=array", "dataset.path=data/a.npz"],
        ["dataset=array", "dataset.path=data/b.npy"],
    ):
        rooted = [] if "dataset=array" in words[0] else ["dataset.download=false"]
        assert run([*TINY, *words, *rooted, "hydra.run.dir=out"]) == 3, words
    assert "Traceback" not in capsys.readouterr().err
    assert not (here / TRACE).exists()


# What executes, or extracts, whatever it is given.
NEVER_IMPORTED = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "runpy", "code"}
NEVER_CALLED = (
    *("eval", "exec", "compile", "__import__", "importlib.import_module", "os.system", "os.popen"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle"),
    *("tar.extractall", "archive.extractall", "shutil.unpack_archive", "utils.extract_archive"),
    *(
        "torch.jit.load",
        "torch.hub.load",
        "torch.hub.load_state_dict_from_url",
        "torch.export.load",
    ),
    *("torch.package.PackageImporter", "hydra.utils.call", "hydra.utils.get_method"),
)
ALWAYS_SAID = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False")}


def test_nothing_in_the_source_executes_what_it_reads():
    package = Path(wgan_cli.__file__).parent
    last_words = {name.rpartition(".")[2] for name in NEVER_CALLED if "." in name}
    said = dict.fromkeys(ALWAYS_SAID, 0)
    for path in [*package.rglob("*.py"), *(package.parent / "benchmarks").rglob("*.py")]:
        if path.name == "fork_server.py":
            # It executes what a test gives it, and reads no file.
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
                assert not {name.partition(".")[0] for name in modules} & NEVER_IMPORTED, path
                # By its bare name a call of it would not be noticed below.
                bare = isinstance(node, ast.ImportFrom) and "wgan_cli" not in modules[0]
                assert not (bare and {"load", *last_words} & set(names)), path
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                where = f"{path}:{node.lineno}"
                assert called not in NEVER_CALLED, where
                # Whatever the object is called, or the module is imported as.
                word = called.rpartition(".")[2] if "." in called else ""
                assert word not in last_words - {"load", "call"}, where
                if called in ALWAYS_SAID:
                    said[called] += 1
                    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert ALWAYS_SAID[called] in given.items(), where
    assert all(said.values())
