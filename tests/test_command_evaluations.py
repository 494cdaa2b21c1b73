"""Evaluations inside real runs: what they write, what they cost, and that they change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import TINY, Command, metrics_of, status_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wgan_cli.schema import METRICS

# All that digits have without Inception, whose weights are not here.
OF_DIGITS = [
    tag
    for tag, traits in METRICS.items()
    if traits.needs in ("samples", "images", "labels") and not tag.endswith("_inception")
]


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    path = run / "checkpoints" / f"step_{step:08d}.pt"
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {
        f"{part}.{name}": value
        for part in ("generator", "critic", "generator_ema")
        for name, value in state[part].items()
    }


@pytest.mark.parametrize("model", ["mlp", "dcgan"])
def test_a_run_has_the_same_bits_with_and_without_evaluations(
    wgan: Command, tmp_path: Path, model: str
):
    words = [word for word in TINY if not word.startswith("steps=")]
    words += ["steps=4", f"model={model}", "ema=0.9"]
    for folder, more in {
        "all": ["eval_every=1", f"metrics=[{','.join(OF_DIGITS)}]"],
        "none": ["metrics=[]"],
    }.items():
        done = wgan(*words, *more, f"hydra.run.dir={folder}")
        assert done.returncode == 0, done.stderr
    looked_at, plain = weights(tmp_path / "all", 4), weights(tmp_path / "none", 4)
    assert looked_at.keys() == plain.keys()
    assert all(torch.equal(looked_at[name], plain[name]) for name in plain)


def test_every_metric_of_digits_is_written_with_its_floor_and_cost(wgan: Command, tmp_path: Path):
    words = [*TINY, "eval_every=1", f"metrics=[{','.join(OF_DIGITS)}]", "hydra.run.dir=run"]
    done = wgan(*words)
    assert done.returncode == 0, done.stderr
    assert "evaluation at step 1:" in done.stderr
    last = metrics_of(tmp_path / "run")[-1]
    pictures = {"critic/gradient_norms", "critic/weights"}
    sized = {tag.removesuffix("_359").removesuffix("_179") for tag in last}
    assert set(OF_DIGITS) - pictures <= sized
    assert last["wasserstein/sliced_real_real"] < last["wasserstein/sliced"]
    assert last["metrics/fid_classifier_359_real_real"] < last["metrics/fid_classifier_359"]
    seconds = status_of(tmp_path / "run")["evaluation_seconds"]
    assert set(seconds) == {"samples", *OF_DIGITS}
    assert all(cost >= 0 for cost in seconds.values())
    both = [point["throughput/evaluation_seconds"] for point in metrics_of(tmp_path / "run")]
    assert sum(both) == pytest.approx(sum(seconds.values()), abs=0.05)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    for tag in (*pictures, "metrics/classes"):
        assert [image.step for image in events.Images(tag)] == [1, 2]
        assert events.Images(tag)[0].width > 300
    assert "wasserstein/exact" in events.Tags()["scalars"]
    assert "metrics/fid_classifier_359" in events.Tags()["scalars"]


@pytest.mark.exhaustive
def test_a_critic_of_known_constant_never_exceeds_the_exact_distance(wgan: Command, tmp_path: Path):
    done = wgan(
        "dataset=gaussians_ring",
        "model=lipschitz_mlp",
        "constraint=none",
        "optimizer=adam",
        "optimizer.lr=3e-3",
        "model.critic.width=32",
        "model.generator.width=32",
        "n_critic=5",
        "steps=60",
        "eval_every=1",
        "eval_samples=64",
        "threads=1",
        "metrics=[wasserstein/exact,wasserstein/normalized]",
        "hydra.run.dir=run",
    )
    assert done.returncode == 0, done.stderr
    points = [p for p in metrics_of(tmp_path / "run") if "wasserstein/exact" in p]
    assert len(points) == 60
    for point in points:
        assert point["wasserstein/normalized"] <= point["wasserstein/exact"] * (1 + 1e-5)
    # The bound would be idle if the critic had learnt nothing.
    best = max(p["wasserstein/normalized"] / p["wasserstein/exact"] for p in points)
    assert best > 0.5


def test_checkpoints_are_kept_for_good_where_asked(wgan: Command, tmp_path: Path):
    words = [word for word in TINY if not word.startswith("steps=")]
    words += ["steps=9", "checkpoint_every=1", "keep_every=3", "metrics=[]", "hydra.run.dir=run"]
    assert wgan(*words).returncode == 0
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*.pt"))
    assert kept == [f"step_0000000{step}.pt" for step in (3, 6, 8, 9)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["keep_every=3", "checkpoint_every=2"], "multiple of checkpoint_every=2"),
        (["metrics=[metrics/modes_found]"], "Gaussian modes"),
        (["dataset=gaussians_ring", "metrics=[metrics/fid_classifier]"], "labels of two classes"),
        (["metrics=[metrics/fid]"], "Did you mean"),
        (["feature_samples=1"], "at least 2"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(
    wgan: Command, tmp_path: Path, words: list[str], said: str
):
    done = wgan(*words)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_inception_without_its_weights_is_refused_before_anything_is_written(
    wgan: Command, tmp_path: Path
):
    done = wgan(*TINY, "metrics=[metrics/fid_inception]", env={"TORCH_HOME": str(tmp_path / "hub")})
    assert done.returncode == 3
    assert "metrics/fid_classifier" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "outputs").exists()
