"""`profile=true`: a whole trace of the right steps, with the phases named, of the same training."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY, leaves, state_of, status_of
from small_disk import SmallDisk, heard, on_small_disk

from wgan_cli.commands.train import run
from wgan_cli.errors import DiskError
from wgan_cli.training.callbacks import profile
from wgan_cli.training.callbacks.progress import Progress

# On a bf16 copy, where one pass of the generator serves both critic updates.
WORDS = [
    *TINY,
    "precision=bf16",
    "eval_samples=8",
    "metrics=[wasserstein/exact]",
    "hydra.run.dir=run",
]
STEP = {
    "data": 2,
    "noise": 3,
    "generated samples": 1,
    "critic update": 2,
    "generator update": 1,
    "average": 1,
}


def traces(run: Path) -> dict[str, list[dict[str, Any]]]:
    """The named ranges of every trace file of a run, by the file's steps."""
    found = {}
    for path in sorted((run / "profile").iterdir()):
        events = json.loads(path.read_text())["traceEvents"]
        steps = path.name.removeprefix("steps_").removesuffix(".pt.trace.json")
        found[steps] = [event for event in events if event.get("cat") == "user_annotation"]
    return found


def counted(events: list[dict[str, Any]]) -> Counter[str]:
    # torch's optimizers name their own steps.
    return Counter(event["name"] for event in events if "#" not in event["name"])


def same_weights(one: Path, other: Path) -> bool:
    first, second = leaves(state_of(one)), leaves(state_of(other))
    tensors = [key for key, value in first.items() if isinstance(value, torch.Tensor)]
    assert len(tensors) > 10
    return all(torch.equal(first[key], second[key]) for key in tensors)


def test_two_steps_show_every_phase_and_train_the_same(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run([*WORDS, "profile=true"]) == 0
    said = capfd.readouterr().err
    assert run([*WORDS[:-1], "hydra.run.dir=plain"]) == 0
    assert same_weights(here / "run", here / "plain")
    assert not (here / "plain" / "profile").exists()

    ((steps, events),) = traces(here / "run").items()
    assert steps == "00000002-00000002"
    # The first step was not traced, and what writes the trace is not in it.
    assert set(counted(events)) - {"profile"} == {
        *STEP,
        *("log", "evaluation", "samples", "checkpoint"),
    }
    assert {name: counted(events)[name] for name in STEP} == STEP
    for event in events:
        assert event["ph"] == "X"
        assert event["dur"] > 0
    # Every line but the profiler's own is the command's.
    lines = [line for line in said.splitlines() if "profile" in line]
    assert len(lines) == 1
    assert "ui.perfetto.dev" in lines[0]
    assert "tensorboard --logdir run/profile" in lines[0]
    assert str(next((here / "run" / "profile").iterdir()).relative_to(here)) in lines[0]
    assert "Profiler" not in said
    assert "gpu" not in said


def test_ten_steps_after_the_first_ten_and_the_later_half_of_few(here: Path) -> None:
    assert run([*WORDS, "steps=25"]) == 0
    saved = here / "run" / "config.yaml"
    config = yaml.safe_load(saved.read_text())
    # As a version without the setting saved it.
    assert config.pop("profile") is False
    saved.write_text(yaml.safe_dump(config))
    assert run(["resume=run", "steps=28", "profile=true"]) == 0
    assert run(["resume=run", "steps=60"]) == 0
    found = traces(here / "run")
    assert list(found) == ["00000027-00000028", "00000039-00000048"]
    for events, steps in zip(found.values(), (2, 10), strict=True):
        counts = counted(events)
        assert {name: counts[name] for name in STEP} == {n: steps * k for n, k in STEP.items()}
    # Nothing was due.
    assert set(counted(found["00000039-00000048"])) == set(STEP)


def test_a_run_that_ends_early_leaves_what_was_traced(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Progress, trainer: Any, point: Any) -> None:
        if point.step == 7:
            raise DiskError("full")

    monkeypatch.setattr(Progress, "on_step", full)
    assert run([*WORDS, "profile=true", "steps=10"]) == 7
    ((steps, events),) = traces(here / "run").items()
    assert steps == "00000006-00000007"
    assert counted(events)["generator update"] == 2
    # The next run of a sweep is in the same process.
    assert not torch.autograd._profiler_enabled()


@pytest.mark.parametrize(
    ("reached", "ended"), [(5, 5), (7, 4)], ids=["stopped before them", "gone back over them"]
)
def test_a_run_that_ends_before_what_was_to_be_traced_says_so(
    reached: int, ended: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer: Any = SimpleNamespace(step=0, steps=10, device=torch.device("cpu"))
    callback = profile.Profile(SimpleNamespace(path=tmp_path))  # type: ignore[arg-type]
    callback.on_start(trainer, SimpleNamespace())  # type: ignore[arg-type]
    for step in range(1, reached + 1):
        trainer.step = step
        callback.on_step(trainer, SimpleNamespace())  # type: ignore[arg-type]
    trainer.step = ended
    callback.on_end(trainer, None)
    assert f"ended at step {ended} and the first to be traced was 6" in caplog.text
    assert not (tmp_path / "profile").exists()
    assert not torch.autograd._profiler_enabled()


@pytest.mark.parametrize("kind", ["disk", "file size"])
def test_a_full_disk_ends_the_run_with_7(tmp_path: Path, kind: str) -> None:
    def story(disk: SmallDisk) -> None:
        write = profile.write_atomically

        def filling(path: Path, data: bytes, **how: bool) -> None:
            disk.fill()
            write(path, data, **how)

        profile.write_atomically = filling
        code, said = heard(run, *WORDS, "profile=true")
        assert code == 7
        assert "run/profile/steps_00000002-00000002.pt.trace.json needs" in said.splitlines()[-1]
        assert list(Path("run/profile").iterdir()) == []
        assert status_of(Path("run"))["exit_code"] == 7

    on_small_disk(SmallDisk(tmp_path, 2_000_000, wanted=kind == "disk"), story)


def test_only_the_profilers_notice_of_cycles_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noisy:
        def __init__(self, activities: object) -> None:
            pass

        def start(self) -> None:
            for text in ("Warning: Profiler clears events at the end of each cycle.", "heard"):
                warnings.warn(text, UserWarning, stacklevel=2)

    monkeypatch.setattr(profile, "profile", Noisy)
    trainer: Any = SimpleNamespace(step=0, steps=1, device=torch.device("cpu"))
    with pytest.warns(UserWarning) as heard:
        profile.Profile(SimpleNamespace(path=tmp_path)).on_start(  # type: ignore[arg-type]
            trainer,
            SimpleNamespace(),  # type: ignore[arg-type]
        )
    assert [str(warning.message) for warning in heard] == ["heard"]


@pytest.mark.parametrize("kind", ["kernel", "cpu_op"])
def test_a_trace_of_a_gpu_without_kernels_is_told(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Traced:
        def stop(self) -> None:
            pass

        def export_chrome_trace(self, path: str) -> None:
            Path(path).write_text(
                json.dumps({"traceEvents": [{"ph": "X", "cat": kind}, {}]}), encoding="utf-8"
            )

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    callback = profile.Profile(SimpleNamespace(path=tmp_path))  # type: ignore[arg-type]
    callback._running = Traced()  # type: ignore[assignment]
    callback.on_end(SimpleNamespace(step=1, device=torch.device("cuda")), None)  # type: ignore[arg-type]
    assert ("no kernels" in caplog.text) == (kind == "cpu_op")


def test_a_trace_that_was_cut_short_aside_is_told() -> None:
    class Cut:
        def export_chrome_trace(self, path: str) -> None:
            Path(path).write_text('{"traceEvents": [{"ph": "X"', encoding="utf-8")

    with pytest.raises(DiskError, match="cannot be written whole"):
        profile._exported(Cut())
