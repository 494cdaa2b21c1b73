"""Peak memory against n: python -m benchmarks.memory [--only WORD] [--most N] [--json FILE].

Each figure is the peak resident memory of a new process in MiB. The data are random.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_IMAGES = ["dataset=array", "batch_size=64", "n_critic=1", "logger=none", "metrics=[]"]


@dataclass(frozen=True)
class Case:
    """A command whose peak memory is measured for each of the `sizes` n.

    `prepare(n)` writes what the command needs to the current folder, and returns the module of
    `wgan_cli.commands` and its arguments.
    """

    name: str
    sizes: Sequence[int]
    prepare: Callable[[int], tuple[str, list[str]]]


def main() -> None:
    """Measure each case in a folder of its own, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--most", type=int, default=10**9, help="leave out larger n")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    json_file = arguments.json and arguments.json.absolute()
    figures: dict[str, dict[int, int]] = {}
    for case in CASES:
        if arguments.only not in case.name:
            continue
        print(f"{case.name}:", end="", flush=True)
        for n in [n for n in case.sizes if n <= arguments.most]:
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                peak = _peak(*case.prepare(n))
                os.chdir("/")
            figures.setdefault(case.name, {})[n] = peak
            print(f"  n={n:,} {peak} MiB", end="", flush=True)
        print()
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


def _peak(module: str, words: Sequence[str]) -> int:
    """Run a command in a new process; return its peak resident memory in MiB."""
    code = f"from wgan_cli.commands.{module} import main; main()"
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(Path())}
    with Path("errors.txt").open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words], env=here, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        reason = Path("errors.txt").read_text(encoding="utf-8")
        raise SystemExit(f"{module} {' '.join(words)}: {reason}")
    return used.ru_maxrss // (2**20 if sys.platform == "darwin" else 1024)


def _images(n: int, side: int, labels: bool = False) -> None:
    """Write n random images and their labels to data.npz or data.npy, in little memory."""
    shape = (n, 3, side, side)
    images = np.lib.format.open_memmap("data.npy", "w+", np.uint8, shape)
    rng = np.random.default_rng(0)
    for start in range(0, n, 1000):
        part = images[start : start + 1000]
        part[:] = rng.integers(0, 256, part.shape, dtype=np.uint8)
    images.flush()
    if labels:
        np.savez("data.npz", images=images, labels=np.arange(n) % 10)


def _trained(*words: str) -> list[str]:
    """Train a run in the folder `run`, and return its name as a list."""
    _peak("train", ["steps=1", "hydra.run.dir=run", *words])
    return ["run"]


def _sample(suffix: str, *words: str) -> Callable[[int], tuple[str, list[str]]]:
    def prepare(n: int) -> tuple[str, list[str]]:
        _images(128, 64)
        run = _trained(*_IMAGES, "dataset.path=data.npy", "model=dcgan", *words)
        return "sample", [*run, "--n", str(n), "--out", f"out.{suffix}"]

    return prepare


def _sample_points(suffix: str) -> Callable[[int], tuple[str, list[str]]]:
    def prepare(n: int) -> tuple[str, list[str]]:
        run = _trained("dataset=gaussians_ring", "metrics=[]", "logger=none")
        return "sample", [*run, "--n", str(n), "--out", f"out.{suffix}"]

    return prepare


def _evaluate(metrics: str, flag: str, labels: bool) -> Callable[[int], tuple[str, list[str]]]:
    def prepare(n: int) -> tuple[str, list[str]]:
        _images(40_000, 32, labels)
        path = f"dataset.path=data.{'npz' if labels else 'npy'}"
        run = _trained(*_IMAGES, path, "model.generator.width=32", "model.critic.width=32")
        return "evaluate", [*run, "--metrics", metrics, flag, str(n)]

    return prepare


def _train(*words: str, side: int = 32) -> Callable[[int], tuple[str, list[str]]]:
    def prepare(n: int) -> tuple[str, list[str]]:
        _images(n, side)
        small = ["model.generator.width=32", "model.critic.width=32"]
        return "train", [*_IMAGES, "dataset.path=data.npy", "steps=2", *small, *words]

    return prepare


def _evaluations(n: int) -> tuple[str, list[str]]:
    return _train("metrics=[wasserstein/exact]", f"eval_samples={n}")(40_000)


def _resume(n: int) -> tuple[str, list[str]]:
    _images(200, 64)
    run = _trained(
        *_IMAGES, "dataset.path=data.npy", "model.generator.depth=2", f"model.generator.width={n}"
    )
    return "train", [f"resume={run[0]}", "steps=2"]


def _runs(n: int, lines: int) -> None:
    """Write n runs of so many lines by hand."""
    for number in range(n):
        folder = Path("runs", str(number))
        folder.mkdir(parents=True)
        names = ["critic/wasserstein", "wasserstein/exact", *(f"metrics/m{i}" for i in range(10))]
        with (folder / "metrics.jsonl").open("w") as file:
            for step in range(lines):
                values = dict.fromkeys(names, 1 / (1 + step + number))
                file.write(json.dumps({"step": step, **values}) + "\n")
        status = {"state": "finished", "step": lines, "steps": lines, "final": {names[1]: 1.0}}
        (folder / "status.json").write_text(json.dumps(status))
        (folder / "config.yaml").write_text(f"seed: {number}\nsteps: {lines}\n")


def _report_of_runs(n: int) -> tuple[str, list[str]]:
    _runs(n, 100)
    return "report", ["runs"]


def _report_of_lines(n: int) -> tuple[str, list[str]]:
    _runs(5, n)
    return "report", ["runs"]


CASES = [
    Case("sample, images 64x64, .npy", (64, 2_000, 20_000), _sample("npy")),
    Case(
        "sample, images 64x64, generator of width 8, .npy",
        (2_000, 20_000, 100_000),
        _sample("npy", "model.generator.width=8"),
    ),
    Case(
        "sample, images 64x64, generator of width 8, .png",
        (64, 2_000, 20_000),
        _sample("png", "model.generator.width=8"),
    ),
    Case("sample, points, .npy", (1_000, 200_000), _sample_points("npy")),
    Case("sample, points, .png", (1_000, 200_000), _sample_points("png")),
    Case("eval --n, exact", (500, 2_000, 4_000), _evaluate("exact", "--n", False)),
    Case("eval --n, sliced", (500, 4_000), _evaluate("sliced", "--n", False)),
    Case("eval --n, pixels", (500, 4_000), _evaluate("precision_pixel", "--n", False)),
    Case(
        "eval --n-features, classifier",
        (500, 2_000, 8_000),
        _evaluate("fid_classifier,kid_classifier", "--n-features", True),
    ),
    Case("train, images 32x32 in the data set", (2_000, 20_000, 100_000), _train()),
    Case("train, eval_samples", (500, 2_000, 4_000), _evaluations),
    Case("train resume=, width of the generator", (256, 1_024, 2_048), _resume),
    Case("report, runs", (5, 100, 500), _report_of_runs),
    Case("report, lines of metrics.jsonl in 5 runs", (1_000, 10_000, 100_000), _report_of_lines),
]


if __name__ == "__main__":
    main()
