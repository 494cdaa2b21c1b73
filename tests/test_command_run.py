from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, metrics_of, status_of
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import plugin_data_pb2

from wgan_cli.commands.train import run
from wgan_cli.machine import multiplies_bfloat16

pytestmark = pytest.mark.charts

STEPS = 7
CADENCE = [f"steps={STEPS}", "log_every=2", "sample_every=3", "checkpoint_every=4", "eval_every=4"]
LOGGED = [
    "critic/wasserstein",
    "critic/loss",
    "critic/loss_real",
    "critic/loss_fake",
    "generator/loss",
    "critic/grad_norm",
    "generator/grad_norm",
    "critic/clip_saturation",
    "throughput/images_per_second",
    "throughput/step_ms",
]
EVALUATED = [
    "critic/wasserstein_heldout",
    "critic/lipschitz",
    "wasserstein/exact",
    "wasserstein/exact_n",
    "wasserstein/exact_real_real",
    "wasserstein/normalized",
]
STATES = {"running", "finished", "diverged", "interrupted", "preempted", "failed"}


@dataclass
class Finished:
    folder: Path
    words: list[str]
    stdout: str
    stderr: str


def only_run_under(here: Path) -> Path:
    (folder,) = (path.parent for path in here.rglob("status.json"))
    return folder


def events_of(folder: Path) -> EventAccumulator:
    everything = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}
    return EventAccumulator(str(folder / "tensorboard"), everything).Reload()


def picture_in(event: Any) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(event.encoded_image_string)))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One real run of the default data set, from the shell, without a terminal."""
    here = tmp_path_factory.mktemp("digits")
    words = [*TINY, *CADENCE]
    answer = subprocess.run(
        [str(Path(sys.executable).with_name("wgan-train")), *words],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert answer.returncode == 0, answer.stderr
    return Finished(only_run_under(here), words, answer.stdout, answer.stderr)


@pytest.fixture(scope="module")
def events(digits: Finished) -> EventAccumulator:
    return events_of(digits.folder)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    here = tmp_path_factory.mktemp("ring")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(sys, "argv", ["wgan-train"])
        assert run([*TINY, "dataset=gaussians_ring", "sample_every=1", "eval_samples=64"]) == 0
    yield only_run_under(here)


def test_a_run_leaves_what_is_promised_and_nothing_else(digits: Finished) -> None:
    names = {path.name for path in digits.folder.iterdir() if not path.name.startswith(".")}
    assert names == {
        "config.yaml",
        "overrides.yaml",
        "environment.json",
        "train.log",
        "status.json",
        "metrics.jsonl",
        "tensorboard",
        "samples",
        "checkpoints",
    }
    assert not list(digits.folder.rglob("*.tmp"))


def test_the_folder_is_named_by_day_and_time(digits: Finished) -> None:
    here = digits.folder.parents[2]
    place = digits.folder.relative_to(here).as_posix()
    assert re.fullmatch(r"outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-\d{6}", place)
    assert [path.name for path in here.iterdir()] == ["outputs"]


def test_pictures_and_checkpoints_come_at_their_cadence_and_at_the_last_step(
    digits: Finished,
) -> None:
    pictures = sorted(path.name for path in (digits.folder / "samples").iterdir())
    assert pictures == [f"step_{step:08d}.png" for step in (0, 3, 6, 7)]
    checkpoints = sorted(path.name for path in (digits.folder / "checkpoints").iterdir())
    assert checkpoints == [f"step_{step:08d}.pt" for step in (4, 7)]


def test_a_sample_picture_is_a_grid_of_64_enlarged_digits(digits: Finished) -> None:
    with Image.open(digits.folder / "samples" / "step_00000007.png") as picture:
        picture.load()
        # Eight 8x8 digits a side, each enlarged four times, with 2 pixels between and around.
        assert picture.size == (8 * (8 * 4 + 2) + 2,) * 2
        assert picture.mode == "RGB"
        assert len(np.unique(np.asarray(picture))) > 2


def test_status_tells_how_the_run_ended(digits: Finished) -> None:
    status = status_of(digits.folder)
    assert set(status) == {
        *("state", "exit_code", "step", "steps", "message"),
        *("final", "started", "ended", "seconds", "evaluation_seconds", "returns"),
    }
    assert status["state"] == "finished"
    assert status["state"] in STATES
    assert status["exit_code"] == 0
    assert status["step"] == status["steps"] == STEPS
    assert status["message"] == ""
    assert 0 < status["seconds"] < 300
    started, ended = (datetime.fromisoformat(status[key]) for key in ("started", "ended"))
    assert started <= ended
    assert started.tzinfo is not None


def test_status_holds_the_newest_value_of_every_tag(digits: Finished) -> None:
    newest: dict[str, float] = {}
    for line in metrics_of(digits.folder):
        newest.update(line)
    del newest["step"]
    assert status_of(digits.folder)["final"] == newest


def test_metrics_have_a_line_a_log_point_with_every_tag(digits: Finished) -> None:
    lines = metrics_of(digits.folder)
    assert [line["step"] for line in lines] == [2, 4, 6, 7]
    for line in lines:
        assert set(LOGGED) <= set(line)
        assert all(math.isfinite(value) for value in line.values())
        evaluated = line["step"] in (4, 7)
        assert all((tag in line) == evaluated for tag in EVALUATED)
        assert "critic/penalty" not in line


def test_numbers_mean_what_their_tags_say(digits: Finished) -> None:
    for line in metrics_of(digits.folder):
        assert line["critic/loss"] == pytest.approx(
            line["critic/loss_real"] + line["critic/loss_fake"], abs=1e-6
        )
        # The Wasserstein loss is the negative estimate.
        assert line["critic/wasserstein"] == pytest.approx(-line["critic/loss"], abs=1e-6)
        assert 0 <= line["critic/clip_saturation"] <= 1
        assert line["throughput/images_per_second"] > 0
    last = metrics_of(digits.folder)[-1]
    held_out = 359
    assert last["wasserstein/exact_n"] == held_out // 2
    assert 0 < last["wasserstein/exact_real_real"] < last["wasserstein/exact"]


def test_neighbour_metrics_carry_their_sample_count(digits: Finished) -> None:
    tags = [tag for tag in metrics_of(digits.folder)[-1] if tag.startswith("metrics/")]
    assert tags
    assert all(re.fullmatch(r"metrics/\w+_179(_raw|_real_real)?", tag) for tag in tags)


def test_the_config_is_filled(digits: Finished) -> None:
    config = yaml.safe_load((digits.folder / "config.yaml").read_text())
    assert config["steps"] == STEPS
    assert config["optimizer"]["name"] == "rmsprop"
    assert config["optimizer"]["lr"] > 0
    assert config["constraint"]["name"] == "clip"
    assert config["clip"] > 0
    assert config["decay"]["kind"] in ("none", "linear", "cosine")
    for key in ("ema", "metrics", "eval_samples", "compile", "threads"):
        assert config[key] is not None, key
    assert config["device"] == "cpu"
    assert config["precision"] == ("bf16" if multiplies_bfloat16(torch.device("cpu")) else "fp32")
    assert config["resume"] is None
    assert "hydra" not in config


def test_overrides_are_what_was_typed(digits: Finished) -> None:
    assert yaml.safe_load((digits.folder / "overrides.yaml").read_text()) == digits.words


def test_the_environment_is_recorded(digits: Finished) -> None:
    environment = json.loads((digits.folder / "environment.json").read_text())
    for package in ("torch", "hydra-core"):
        assert environment["packages"][package] == metadata.version(package)
    assert environment["device"] == "cpu"
    assert "gpus" not in environment
    assert all(environment[key] for key in ("command", "python", "platform"))


def test_the_log_file_has_the_messages_with_their_times(digits: Finished) -> None:
    lines = (digits.folder / "train.log").read_text().splitlines()
    assert lines
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line) for line in lines)
    assert any("digits" in line and "wasserstein" in line for line in lines)


def test_a_checkpoint_is_read_safely_and_holds_plain_state_dicts(digits: Finished) -> None:
    path = digits.folder / "checkpoints" / "step_00000007.pt"
    state = torch.load(path, weights_only=True)
    assert state["step"] == STEPS
    for network in ("generator", "critic"):
        assert type(state[network]).__name__ in ("dict", "OrderedDict")
        assert all(isinstance(value, torch.Tensor) for value in state[network].values())
        assert not any(name.startswith(("module.", "_orig_mod.")) for name in state[network])


def test_the_summary_has_the_estimates_the_picture_and_the_next_command(digits: Finished) -> None:
    first, *_, last = metrics_of(digits.folder)
    for line in (first, last):
        assert f"{line['critic/wasserstein']:.4g} at step {line['step']:.0f}" in digits.stdout
    here = digits.folder.parents[2]
    (picture,) = re.findall(r"\S+\.png", digits.stdout)
    assert (here / picture).samefile(digits.folder / "samples" / "step_00000007.png")
    assert "tensorboard --logdir outputs" in digits.stdout


def test_without_a_terminal_there_is_no_bar_and_little_noise(digits: Finished) -> None:
    assert "\r" not in digits.stderr
    assert "\x1b" not in digits.stderr + digits.stdout
    assert "it/s" not in digits.stderr
    progress = [line for line in digits.stderr.splitlines() if line.startswith("step ")]
    # A line every ten seconds at most, and one at the end.
    assert len(progress) <= 1 + status_of(digits.folder)["seconds"] // 10
    assert "Warning" not in digits.stderr


def test_the_run_says_what_it_took_for_what_was_left_open(digits: Finished) -> None:
    config = yaml.safe_load((digits.folder / "config.yaml").read_text())
    assert f"clip={config['clip']} (" in digits.stderr
    assert f"optimizer.lr={config['optimizer']['lr']} (" in digits.stderr


def test_tensorboard_scalars_are_metrics_jsonl(digits: Finished, events: EventAccumulator) -> None:
    expected: dict[str, list[tuple[int, float]]] = {}
    for line in metrics_of(digits.folder):
        for tag, value in line.items():
            if tag != "step":
                expected.setdefault(tag, []).append((int(line["step"]), value))
    assert set(LOGGED) | set(EVALUATED) <= set(events.Tags()["scalars"])
    assert set(events.Tags()["scalars"]) == set(expected)
    for tag, points in expected.items():
        curve = events.Scalars(tag)
        assert [event.step for event in curve] == [step for step, _ in points]
        assert [event.value for event in curve] == pytest.approx(
            [value for _, value in points], rel=1e-6
        )


def test_tensorboard_has_the_pictures(events: EventAccumulator) -> None:
    charts = {"critic/gradient_norms", "critic/weights"}
    # The digits' generator is averaged.
    samples = {"samples/fake", "samples/fake_raw", "samples/real"}
    assert set(events.Tags()["images"]) == samples | charts
    assert [event.step for event in events.Images("samples/fake")] == [0, 3, 6, 7]
    assert len(events.Images("samples/real")) == 1
    for tag in ("samples/fake", "samples/real"):
        assert picture_in(events.Images(tag)[0]).shape == (274, 274, 3)


def test_the_last_picture_in_tensorboard_is_the_last_png(
    digits: Finished, events: EventAccumulator
) -> None:
    with Image.open(digits.folder / "samples" / "step_00000007.png") as picture:
        shown = picture_in(events.Images("samples/fake")[-1])
        assert np.array_equal(np.asarray(picture), shown)


def test_tensorboard_has_a_histogram_of_every_critic_parameter(
    digits: Finished, events: EventAccumulator
) -> None:
    state = torch.load(digits.folder / "checkpoints" / "step_00000007.pt", weights_only=True)
    tags = {f"critic_weights/{name}" for name in state["critic"]}
    assert set(events.Tags()["histograms"]) == tags
    for tag in tags:
        histograms = events.Histograms(tag)
        assert [event.step for event in histograms] == [3, 6, 7]
        weights = state["critic"][tag.removeprefix("critic_weights/")]
        newest = histograms[-1].histogram_value
        assert newest.num == weights.numel()
        assert newest.min == pytest.approx(float(weights.min()))
        assert newest.max == pytest.approx(float(weights.max()))


def test_tensorboard_has_the_config_as_text(digits: Finished, events: EventAccumulator) -> None:
    (event,) = events.Tensors("config/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    block = text.removeprefix("```yaml\n").removesuffix("\n```")
    assert yaml.safe_load(block) == yaml.safe_load((digits.folder / "config.yaml").read_text())


def test_hparams_has_one_entry_with_the_final_numbers(digits: Finished) -> None:
    runs = EventMultiplexer().AddRunsFromDirectory(str(digits.folder.parents[1])).Reload()
    entries = runs.PluginRunToTagToContent("hparams")
    ((name, contents),) = entries.items()
    start = plugin_data_pb2.HParamsPluginData.FromString(
        contents["_hparams_/session_start_info"]
    ).session_start_info
    settings = dict(start.hparams.items())
    assert settings["steps"].number_value == STEPS
    assert settings["loss.name"].string_value == "wasserstein"
    assert settings["optimizer.lr"].number_value > 0
    experiment = plugin_data_pb2.HParamsPluginData.FromString(
        contents["_hparams_/experiment"]
    ).experiment
    metrics = {info.name.tag for info in experiment.metric_infos}
    assert set(LOGGED) | set(EVALUATED) <= metrics
    # The plugin shows the last value of the run's own curves: no second, phantom run.
    assert list(runs.Runs()) == [name]
    final = status_of(digits.folder)["final"]
    for tag in metrics:
        assert runs.Scalars(name, tag)[-1].value == pytest.approx(final[tag], rel=1e-6)


def test_points_are_shown_as_a_scatter_over_the_critic(ring: Path) -> None:
    events = events_of(ring)
    assert {"samples/scatter", "critic/surface"} <= set(events.Tags()["images"])
    for tag in ("samples/scatter", "critic/surface"):
        pictures = events.Images(tag)
        assert [event.step for event in pictures] == [0, 1, 2]
        shown = picture_in(pictures[-1])
        assert min(shown.shape[:2]) >= 300
        assert shown.std() > 1
    with Image.open(ring / "samples" / "step_00000002.png") as picture:
        assert min(picture.size) >= 300


def test_points_have_every_number_too(ring: Path) -> None:
    last = metrics_of(ring)[-1]
    assert set(LOGGED) | set(EVALUATED) <= set(last)
    assert last["wasserstein/exact_n"] == 64


def test_metrics_that_look_at_pixels_do_not_apply_to_points(ring: Path) -> None:
    assert not [tag for line in metrics_of(ring) for tag in line if "pixel" in tag]


def test_adam_trains_without_a_clip_under_no_constraint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["wgan-train"])
    assert run([*TINY, "constraint=none", "optimizer=adam", "log_every=1"]) == 0
    folder = only_run_under(tmp_path)
    assert yaml.safe_load((folder / "config.yaml").read_text())["clip"] is None
    assert not any("critic/clip_saturation" in line for line in metrics_of(folder))


def test_in_a_folder_that_hydra_makes_the_current_one_commands_name_it_wholly(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "hydra.job.chdir=true"]
    assert run([*words, "hydra.run.dir=run"]) == 0
    assert f"wgan-eval {here}/run\n" in capsys.readouterr().out
    assert Path.cwd() == here
    (checkpoint,) = (here / "run" / "checkpoints").glob("step_*.pt")
    resume = f"resume={checkpoint.relative_to(here)}"
    assert run([*words, "steps=3", resume, "hydra.run.dir=other"]) == 0
    assert status_of(here / "other")["step"] == 3
