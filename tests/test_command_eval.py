"""`wgan-eval` as a user meets it: the real command on a real, short run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Command, metrics_of
from PIL import Image
from scipy.stats import pearsonr, spearmanr

from benchmarks.forked_commands import CommandServer
from wgan_cli.commands.evaluate import run as evaluate
from wgan_cli.commands.train import run as train
from wgan_cli.data.dataset import held_out_halves
from wgan_cli.data.feeds import to_floats
from wgan_cli.data.images import digits
from wgan_cli.metrics.wasserstein import exact_wasserstein

pytestmark = pytest.mark.charts

STEPS = 6


@pytest.fixture(scope="module")
def trained(command_server: CommandServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of the digits with every checkpoint kept and an averaged generator."""
    place = tmp_path_factory.mktemp("trained")
    words = [word for word in TINY if not word.startswith("steps=")]
    command = [
        *words,
        f"steps={STEPS}",
        "ema=0.9",
        "log_every=1",
        "checkpoint_every=1",
        "keep_every=1",
        "eval_every=2",
        "hydra.run.dir=run",
    ]
    command_server.run("wgan-train", command, place).check_returncode()
    return place / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def evaluation_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "evaluation.json").read_text())


def curves_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "evaluation_curves.json").read_text())


def row(text: str, tag: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(tag + " ")]
    return line.split()[1:]


def test_the_newest_checkpoint_is_measured_with_floors(wgan: Command, run: Path):
    done = wgan("run", command="wgan-eval")
    assert done.returncode == 0, done.stderr
    found = evaluation_of(run)
    (one,) = found["checkpoints"]
    assert (found["generator"], found["dataset"], one["step"]) == ("ema", "digits", STEPS)
    assert found["samples"] == {"distances": 179, "features": 359}
    assert found["classifier_accuracy"] > 0.9
    assert f"{found['classifier_accuracy']:.1%}" in done.stdout
    for tag in ("wasserstein/exact", "wasserstein/sliced", "metrics/fid_classifier_359"):
        value, floor = one["values"][tag], one["real_real"][tag]
        assert row(done.stdout, tag) == [f"{value:.4g}", f"{floor:.4g}"]
        assert 0 < floor < value
    for tag in ("kid", "is", "precision", "recall"):
        assert f"metrics/{tag}_classifier_359" in one["values"]
    assert one["values"]["wasserstein/exact"] == pytest.approx(
        metrics_of(run)[-1]["wasserstein/exact"]
    )
    assert one["seconds"].keys() >= {"samples", "wasserstein/exact", "metrics/fid_classifier"}
    for name in ("critic_gradient_norms", "critic_weights", "metrics_classes"):
        assert Image.open(run / "evaluation" / f"{name}.png").size[0] > 300
        assert f"{name}.png" in done.stdout


def test_chosen_metrics_more_samples_and_the_raw_generator(wgan: Command, run: Path):
    done = wgan(
        "run", "--metrics", "exact,wasserstein/sliced", "--raw", "--n", "40", command="wgan-eval"
    )
    assert done.returncode == 0, done.stderr
    found = evaluation_of(run)
    assert found["generator"] == "raw"
    (one,) = found["checkpoints"]
    assert set(one["values"]) == {"wasserstein/exact", "wasserstein/sliced"}
    held_out = digits().held_out
    real, other = (to_floats(held_out[half]) for half in held_out_halves(digits(), 40))
    assert one["real_real"]["wasserstein/exact"] == pytest.approx(exact_wasserstein(other, real))


@pytest.mark.parametrize("named", ["3", "step_00000003.pt", "run/checkpoints/step_00000003.pt"])
def test_another_checkpoint_by_step_name_or_path(wgan: Command, run: Path, named: str):
    done = wgan("run", "--checkpoint", named, "--metrics", "exact", command="wgan-eval")
    assert done.returncode == 0, done.stderr
    assert evaluation_of(run)["checkpoints"][0]["step"] == 3


@pytest.mark.exhaustive
def test_a_checkpoint_file_stands_for_its_run(shell: Command, run: Path):
    path = "run/checkpoints/step_00000002.pt"
    done = shell(path, "--metrics", "exact", command="wgan-eval")
    assert done.returncode == 0, done.stderr
    assert evaluation_of(run)["checkpoints"][0]["step"] == 2


def test_all_checkpoints_give_curves_and_correlations(wgan: Command, run: Path):
    chosen = "exact,fid_classifier,lipschitz"
    done = wgan("run", "--all-checkpoints", "--metrics", chosen, command="wgan-eval")
    assert done.returncode == 0, done.stderr
    assert not (run / "evaluation.json").exists()
    assert "measuring metrics/fid_classifier" in done.stderr
    found = curves_of(run)
    steps = [one["step"] for one in found["checkpoints"]]
    assert steps == list(range(1, STEPS + 1))
    recorded = {point["step"]: point for point in metrics_of(run)}
    estimates = [recorded[step]["critic/wasserstein"] for step in steps]
    assert [one["critic/wasserstein"] for one in found["checkpoints"]] == estimates
    for tag in ("wasserstein/exact", "metrics/fid_classifier_359", "critic/lipschitz"):
        values = [one["values"][tag] for one in found["checkpoints"]]
        related = found["correlation_with_estimate"][tag]
        assert related["spearman"] == pytest.approx(spearmanr(estimates, values).statistic)
        assert related["pearson"] == pytest.approx(pearsonr(estimates, values).statistic)
        assert related["checkpoints"] == STEPS
        assert row(done.stdout, tag)[-2] == f"{related['spearman']:.4g}"
    exact = [one["values"]["wasserstein/exact"] for one in found["checkpoints"]]
    logged = [recorded[step]["wasserstein/exact"] for step in (2, 4, 6)]
    assert [exact[1], exact[3], exact[5]] == pytest.approx(logged)
    assert Image.open(run / "evaluation" / "curves.png").size[0] > 800


def test_two_checkpoints_are_too_few_for_a_correlation_and_it_says_so(wgan: Command, run: Path):
    for path in sorted((run / "checkpoints").glob("step_*.pt"))[:-2]:
        path.unlink()
    done = wgan("run", "--all-checkpoints", "--metrics", "exact", command="wgan-eval")
    assert done.returncode == 0, done.stderr
    assert curves_of(run)["correlation_with_estimate"] == {}
    assert "keep_every" in done.stdout


def test_only_estimates_logged_at_a_checkpoints_step_are_compared(wgan: Command, run: Path):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    broken = [*lines[:2], "5", '{"no": 1}', "not json", *lines[3:]]
    (run / "metrics.jsonl").write_text("\n".join(broken) + "\n")
    done = wgan("run", "--all-checkpoints", "--metrics", "exact", command="wgan-eval")
    assert done.returncode == 0, done.stderr
    estimates = [one["critic/wasserstein"] for one in curves_of(run)["checkpoints"]]
    assert [value is None for value in estimates] == [False, False, True, False, False, False]
    assert curves_of(run)["correlation_with_estimate"]["wasserstein/exact"]["checkpoints"] == 5
    assert "over 5 checkpoints" in done.stdout


def test_a_damaged_checkpoint_of_many_is_passed_over(wgan: Command, run: Path):
    (run / "checkpoints" / "step_00000003.pt").write_bytes(b"damaged")
    done = wgan("run", "--all-checkpoints", "--metrics", "exact", command="wgan-eval")
    assert done.returncode == 0, done.stderr
    assert "skipped" in done.stderr
    assert [one["step"] for one in curves_of(run)["checkpoints"]] == [1, 2, 4, 5, 6]


def test_what_cannot_be_written_is_still_shown(wgan: Command, run: Path):
    (run / "evaluation.json").mkdir()
    done = wgan("run", "--metrics", "exact", command="wgan-eval")
    assert done.returncode == 7
    assert "cannot be written" in done.stderr
    assert float(row(done.stdout, "wasserstein/exact")[0]) > 0


def test_a_critic_gone_wild_gets_no_number(wgan: Command, run: Path):
    from wgan_cli.training.checkpoint import load_checkpoint, save_checkpoint

    path = sorted((run / "checkpoints").glob("step_*.pt"))[-1]
    state = load_checkpoint(path)
    state["critic"] = {name: value * 1e30 for name, value in state["critic"].items()}
    save_checkpoint(path, state)
    done = wgan("run", "--metrics", "lipschitz,normalized,exact", command="wgan-eval")
    assert done.returncode == 3
    assert "NaN or infinite" in done.stdout
    (one,) = evaluation_of(run)["checkpoints"]
    assert set(one["values"]) == {"wasserstein/exact"}


def test_evaluating_twice_gives_the_same_and_another_seed_another(wgan: Command, run: Path):
    found = []
    for seed in ([], [], ["--seed", "7"]):
        wgan("run", "--metrics", "exact", *seed, command="wgan-eval")
        found.append(evaluation_of(run)["checkpoints"][0]["values"]["wasserstein/exact"])
    assert found[0] == found[1] != found[2]


def test_evaluating_leaves_the_run_as_it_was(wgan: Command, run: Path):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    wgan("run", "--metrics", "exact", command="wgan-eval")
    after = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert {p: data for p, data in after.items() if p in before} == before
    assert {p.name for p in after.keys() - before.keys()} == {"evaluation.json"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere"], 4, "no such run"),
        (["run", "--metrics", "exakt"], 2, "Did you mean"),
        (["run", "--metrics", "modes_found"], 2, "Gaussian modes"),
        (["run", "--n", "3"], 2, "at least 4"),
        (["run", "--n", "180", "--metrics", "exact"], 2, "at most 179"),
        (["run", "--n-features", "360"], 2, "359 held-out"),
        (["run", "--checkpoint", "99"], 4, "step_00000001.pt"),
        (["run", "--checkpoint", "\u00b2"], 4, "step_00000001.pt"),
        (["run", "--checkpoint", "other/step_00000003.pt"], 4, "no such checkpoint"),
        (["other/step_00000003.pt"], 4, "run folder"),
        (["run", "--metrics", ""], 2, "names none"),
        (["run", "--seed=-1"], 2, "at least 0"),
        (["run", "--root", "elsewhere"], 2, "read from no folder"),
        (["run", "--device", "gpu"], 2, "device"),
        (["run", "--device", "cuda:9"], 2, "CUDA"),
        (["run/checkpoints/step_00000002.pt", "--all-checkpoints"], 2, "run folder"),
        (["run", "--metrics", "fid_inception"], 3, "weights-inception"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(
    wgan: Command, run: Path, words: list[str], code: int, said: str
):
    environment = {"TORCH_HOME": str(run.parent / "hub")}
    other = run.parent / "other"
    other.mkdir()
    shutil.copy(run / "checkpoints" / "step_00000003.pt", other)
    done = wgan(*words, command="wgan-eval", env=environment)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
    assert not (run / "evaluation.json").exists()


@pytest.mark.exhaustive
def test_root_says_where_a_file_of_arrays_is_now(here: Path, capsys: pytest.CaptureFixture[str]):
    points = np.random.default_rng(0).standard_normal((80, 2))
    np.save(here / "points.npy", points)
    words = [*TINY, "dataset=array", "dataset.path=points.npy", "hydra.run.dir=out"]
    assert train([*words, "eval_samples=8"]) == 0
    (here / "points.npy").rename(here / "moved.npy")
    capsys.readouterr()
    assert evaluate(["out", "--metrics", "exact"]) == 3
    assert "Here --root PATH replaces dataset.path." in capsys.readouterr().err
    assert evaluate(["out", "--metrics", "exact", "--root", "moved.npy"]) == 0


def test_a_class_of_ones_own_needs_trust(wgan: Command, run: Path):
    path = sorted((run / "checkpoints").glob("step_*.pt"))[-1]
    from wgan_cli.training.checkpoint import load_checkpoint, save_checkpoint

    state = load_checkpoint(path)
    state["config"]["dataset"]["_target_"] = "elsewhere.data"
    save_checkpoint(path, state)
    done = wgan("run", command="wgan-eval")
    assert done.returncode == 4
    assert "--trust elsewhere" in done.stderr


def test_a_collapsed_generator_is_said_to_have_no_features(wgan: Command, run: Path):
    from wgan_cli.training.checkpoint import load_checkpoint, save_checkpoint

    path = sorted((run / "checkpoints").glob("step_*.pt"))[-1]
    state = load_checkpoint(path)
    state["generator_ema"] = {k: torch.zeros_like(v) for k, v in state["generator_ema"].items()}
    save_checkpoint(path, state)
    done = wgan("run", "--metrics", "exact,fid_classifier", command="wgan-eval")
    assert done.returncode == 3
    assert "metrics/fid_classifier: no number, because" in done.stdout
    (one,) = evaluation_of(run)["checkpoints"]
    assert "equal" in one["refused"]["metrics/fid_classifier"]
    assert np.isfinite(one["values"]["wasserstein/exact"])


def test_a_damaged_checkpoint_is_refused(wgan: Command, run: Path):
    path = run / "checkpoints" / "step_00000003.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = wgan("run", "--checkpoint", "3", command="wgan-eval")
    assert done.returncode == 4
    assert "damaged" in done.stderr


def test_help_lists_the_metrics(wgan: Command):
    done = wgan("--help", command="wgan-eval")
    assert done.returncode == 0
    assert "wasserstein/exact" in done.stdout.replace("\n", "")
