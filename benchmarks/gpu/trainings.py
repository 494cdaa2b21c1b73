"""Part 7: real trainings, and how long they take to the quality of docs/results.md."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.commands import train
from benchmarks.gpu.records import Work

# Of docs/results.md: metrics at the end of a run, and what the worst of its seeds reached there.
DIGITS = {"wasserstein/exact": 3.30}
MNIST = {"wasserstein/exact": 13.95, "metrics/precision_pixel": 0.45, "metrics/recall_pixel": 0.65}
FID = {"metrics/fid_classifier": 2.30}
# FID needs a classifier, whose training on CPU cores may take longer than everything else here.
SECONDS_WITH_FID = 150
_WITHOUT_FID = ",".join([*MNIST, "wasserstein/sliced"])
CIFAR_WORDS = (
    "model=dcgan",
    "loss=wasserstein",
    "constraint=clip",
    "optimizer=adam",
    "clip=0.1",
    "optimizer.lr=2e-4",
    "batch_size=128",
    "latent_dim=100",
    "n_critic=1",
    "ema=0.995",
    "steps=100000",
    "eval_every=5000",
)


def run(work: Work) -> None:
    """Run the part: MNIST and CIFAR-10 where their paths are given, and the digits otherwise."""
    trainings = []
    if work.mnist is not None:
        words = ["experiment=mnist_dcgan", *mnist_data(work)[1:], "eval_every=1000"]
        with_fid = work.left > SECONDS_WITH_FID
        words += [] if with_fid else [f"metrics=[{_WITHOUT_FID}]"]
        trainings.append(("MNIST", words, {**MNIST, **(FID if with_fid else {})}))
    if work.cifar is not None:
        trainings.append(("CIFAR-10", [*cifar_data(work.cifar), *CIFAR_WORDS], {}))
    if not trainings:
        work.report.fact("data", "no --mnist and no --cifar: the digits of scikit-learn instead")
        trainings.append(("digits", ["eval_every=500"], DIGITS))
    for index, (name, words, wanted) in enumerate(trainings):
        if work.has(8, name):
            seconds = work.left / (len(trainings) - index)
            _train(work, name, [*words, "device=cuda"], wanted, seconds)


def mnist_root(work: Work) -> Path:
    """A copy of the folder of MNIST, with its packed files unpacked."""
    assert work.mnist is not None
    root = work.folder / "mnist"
    if not root.exists():
        inside = work.mnist / "MNIST"
        shutil.copytree(inside if inside.is_dir() else work.mnist, root / "MNIST")
        for packed in root.rglob("*-ubyte.gz"):
            packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    return root


def mnist_data(work: Work) -> list[str]:
    """The overrides for MNIST."""
    return ["dataset=mnist", f"dataset.root={mnist_root(work)}", "dataset.download=false"]


def cifar_data(folder: Path) -> list[str]:
    """The overrides for CIFAR-10 in torchvision's form, or as a folder of images."""
    if (folder / "cifar-10-batches-py").is_dir() or (folder / "cifar-10-python.tar.gz").is_file():
        return ["dataset=cifar10", f"dataset.root={folder}"]
    return ["dataset=image_folder", f"dataset.root={folder}", "dataset.size=32"]


class Progress:
    """For `during`: the points of a run's metrics, each with the seconds since the start.

    After `seconds`, it sends SIGTERM, once, so that the run saves and ends.
    """

    def __init__(self, run: Path, seconds: float) -> None:
        self.points: list[tuple[float, dict[str, Any]]] = []
        self._file = run / "metrics.jsonl"
        self._read = 0
        self._seconds = seconds
        self.stopped = False

    def __call__(self, process: subprocess.Popen[str], start: float) -> None:
        """Read new lines."""
        now = time.monotonic() - start
        if now > self._seconds and not self.stopped:
            self.stopped = True
            process.send_signal(signal.SIGTERM)
        self.read(now)

    def read(self, now: float) -> None:
        """Read new whole lines, as written `now` seconds after the start."""
        try:
            with self._file.open("rb") as file:
                file.seek(self._read)
                text = file.read()
        except OSError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        self.points += [(now, json.loads(line)) for line in whole.splitlines()]

    def reached(self, wanted: dict[str, float]) -> dict[str, Any]:
        """For each metric and for all together, the first seconds and step as good as wanted.

        A metric's name may go on with its sample count, as in metrics/fid_classifier_2000.
        """
        found: dict[str, Any] = dict.fromkeys([*wanted, "all at once"])
        for seconds, point in self.points:
            good = {
                tag for tag, limit in wanted.items() if as_good(value_of(point, tag), tag, limit)
            }
            for tag in (*good, *(["all at once"] if len(good) == len(wanted) else [])):
                found[tag] = found[tag] or {"s": round(seconds, 1), "step": point["step"]}
        return found


def as_good(value: float | None, tag: str, limit: float) -> bool:
    """Whether a metric is at least as good as a limit: precision and recall are best when large."""
    if value is None:
        return False
    return value >= limit if "precision" in tag or "recall" in tag else value <= limit


def value_of(point: dict[str, Any], tag: str) -> float | None:
    """A metric of the averaged generator, whose tag may end in its sample count."""
    for name, value in point.items():
        count = name.removeprefix(tag).removeprefix("_")
        if name.startswith(tag) and (count.isdigit() or name == tag):
            return float(value)
    return None


def _train(
    work: Work, name: str, words: list[str], wanted: dict[str, float], seconds: float
) -> None:
    report, run = work.report, work.folder / "trainings" / name
    # Ending takes a few seconds after a signal.
    progress = Progress(run, max(5.0, seconds - 6))
    done = train(run, words, seconds, during=progress)
    progress.read(done.seconds)
    codes = (0, 75) if progress.stopped else (0,)
    report.check(f"{name}: exit code", done.code in codes, done.in_short(0), codes)
    report.fact(f"{name}: seconds", round(done.seconds, 1))
    report.fact(f"{name}: ended", "at its time limit" if progress.stopped else "by itself")
    if done.first_step is not None:
        report.fact(f"{name}: seconds to the first log point", round(done.first_step, 1))
    if not progress.points:
        return
    evaluated = [point for _, point in progress.points if "wasserstein/exact" in point]
    last = {**(evaluated[-1] if evaluated else {}), **progress.points[-1][1]}
    kept = {tag: round(value, 4) for tag, value in last.items() if not tag.endswith("_real")}
    report.fact(f"{name}: last numbers", kept)
    if wanted:
        reached = progress.reached(wanted)
        report.fact(f"{name}: time to the quality of docs/results.md", reached)
        if not progress.stopped:
            passed = all(value is not None for value in reached.values())
            report.check(f"{name}: quality", passed, reached, wanted, numbers=True)
