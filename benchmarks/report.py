"""The time of a report on many runs: python -m benchmarks.report [--runs 300] [--keep FOLDER].

Creates run folders through the code that runs use, each with 90 log points, 9 evaluations and a
picture. Some runs are unfinished or diverged. Then times `wgan-report` on them in a separate
process. `--keep` keeps the run folders in FOLDER.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wgan_cli.run_folder import METRICS, RunFolder
from wgan_cli.run_status import RunStatus, now, write_status

LOSSES = ("wasserstein", "hinge")
CLIPS = (0.001, 0.003, 0.01, 0.03, 0.1)
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
SEEDS = 3
STEPS, LOGGED, EVALUATED = 4500, 50, 500
FLOOR = 3.104


def main() -> None:
    """Create the runs, time the report, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        write_runs(folder, arguments.runs)
        code = "from wgan_cli.commands.report import main; main()"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            env=environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        seconds = time.perf_counter() - started
        page = (folder / "report.html").stat().st_size / 1e6
    print(f"{arguments.runs} runs: {seconds:.1f} s (target: < 20), page of {page:.1f} MB (< 15)")


def write_runs(folder: Path, count: int, losses: tuple[str, ...] = LOSSES) -> None:
    """Create `count` run folders below `folder`: losses x clip values x learning rates x seeds."""
    base = _config()
    choices = itertools.product(RATES, CLIPS, losses, range(SEEDS))
    for job, (rate, clip, loss, seed) in enumerate(itertools.islice(choices, count)):
        config = copy.deepcopy(base)
        config["loss"] |= {"name": loss, "_target_": f"wgan_cli.losses.{loss.capitalize()}"}
        config["clip"], config["seed"] = clip, seed
        config["optimizer"]["lr"] = rate
        words = [f"loss={loss}", f"clip={clip}", f"optimizer.lr={rate}", f"seed={seed}"]
        _write(RunFolder(folder / str(job)), config, words)


def _config() -> dict[str, Any]:
    """The default run's, filled."""
    from wgan_cli.commands.composition import Composer, without_hydra
    from wgan_cli.config import as_dict, fill, validate

    return as_dict(fill(validate(without_hydra(Composer().compose([]))))[0])


def _write(folder: RunFolder, config: dict[str, Any], words: list[str]) -> None:
    rate, clip, seed = config["optimizer"]["lr"], config["clip"], config["seed"]
    number = int(folder.path.name)
    random = np.random.default_rng((number, seed))
    # The score is best near clip 0.03 and rate 5e-4; runs far away diverge.
    far = math.log(clip / 0.03) ** 2 / 8 + math.log(rate / 5e-4) ** 2 / 20
    diverged = far > 0.35 and clip * rate > 1e-4
    state = "diverged" if diverged else ("running" if number % 41 == 40 else "finished")
    last = {"diverged": 700, "running": 2000, "finished": STEPS}[state]
    folder.claim(resuming=False)
    folder.write_config(config)
    folder.write_overrides(words)
    folder.write_environment(device="cpu")
    final: dict[str, float] = {}
    lines = []
    for step in range(LOGGED, last + 1, LOGGED):
        values = _values(step, far, random, evaluated=step % EVALUATED == 0)
        final |= values
        lines.append((step, values))
    for step, values in lines:
        folder.append_metrics(step, values)
    assert (folder.path / METRICS).is_file()
    pixels = random.integers(0, 256, (34 * 8, 34 * 8), dtype=np.uint8)
    Image.fromarray(pixels).save(folder.samples / f"step_{last:08d}.png")
    told = "critic/loss became NaN at step 720. A lower optimizer.lr helps." if diverged else ""
    code = {"diverged": 5, "running": None, "finished": 0}[state]
    status = RunStatus(
        state=state,
        exit_code=code,
        step=last,
        steps=STEPS,
        message=told,
        final=final,
        started=now(),
        ended=None if code is None else now(),
        seconds=42.0,
    )
    write_status(folder.path, status)
    folder.release()


def _values(
    step: int, far: float, random: np.random.Generator, *, evaluated: bool
) -> dict[str, float]:
    noise = random.standard_normal(12)
    done = 1 - math.exp(-step / 1000)
    estimate = 0.06 * math.exp(-far) * (1 - 0.7 * done) + 0.002 * noise[0]
    values = {
        "critic/wasserstein": estimate,
        "critic/loss": -estimate,
        "critic/loss_real": 0.4 + 0.01 * noise[1],
        "critic/loss_fake": -0.4 + 0.01 * noise[2],
        "critic/grad_norm": math.exp(far / 3 + 0.1 * noise[3]),
        "generator/loss": 0.2 + 0.02 * noise[4],
        "generator/grad_norm": 0.1 * math.exp(0.1 * noise[5]),
        "critic/clip_saturation": 0.4 * done,
        "throughput/images_per_second": 20000 + 500 * noise[6],
        "throughput/step_ms": 9 + 0.2 * noise[7],
    }
    if evaluated:
        exact = FLOOR + 0.1 + far / 4 + 2 * (1 - done) + 0.02 * noise[8]
        values |= {
            "wasserstein/exact": exact,
            "wasserstein/sliced": exact / 30,
            "wasserstein/normalized": exact / 40 + 0.002 * noise[9],
            "critic/lipschitz": math.exp(far / 2),
            "critic/wasserstein_heldout": estimate * 1.02,
            "metrics/precision_pixel_179": max(0.0, 0.9 - far / 3 + 0.01 * noise[10]) * done,
            "metrics/recall_pixel_179": max(0.0, 0.8 - far / 4 + 0.01 * noise[11]) * done,
            "wasserstein/exact_real_real": FLOOR,
            "wasserstein/sliced_real_real": 0.066,
            "metrics/precision_pixel_179_real_real": 0.95,
            "metrics/recall_pixel_179_real_real": 0.95,
            "wasserstein/exact_n": 179,
        }
    return values


if __name__ == "__main__":
    main()
