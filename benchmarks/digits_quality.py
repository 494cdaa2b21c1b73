"""The quality of generated digits: python -m benchmarks.digits_quality RUN [RUN ...].

Prints nearest-neighbour precision and recall (k = 3, pixel space) of 1,400 generated against 1,400
training digits, and the exact W1 of 297 generated to 297 held-out digits, divided by that of 297
training digits to the same. The first row has these scores for real held-out digits. The
estimate's fall is its mean over the last tenth of the run, divided by its maximum.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from wgan_cli.build import build_generator
from wgan_cli.data.feeds import to_floats
from wgan_cli.data.images import digits
from wgan_cli.evaluation.sampling import generate
from wgan_cli.metrics.neighbours import precision_recall
from wgan_cli.metrics.wasserstein import exact_wasserstein
from wgan_cli.randomness import Draws, Stream
from wgan_cli.run_folder import RunFolder
from wgan_cli.run_status import read_status
from wgan_cli.training.checkpoint import load_newest

COUNT, PAIRS, SEED = 1400, 297, 12345


def main() -> None:
    """Print a row for each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument(
        "--raw", action="store_true", help="use the raw generator, not the averaged one"
    )
    arguments = parser.parse_args()
    data = digits()
    train = to_floats(data.train[:COUNT])
    held_out = to_floats(data.held_out)
    floor = exact_wasserstein(train[:PAIRS], held_out[:PAIRS])
    precision, recall = precision_recall(train, held_out)
    print(f"{'':<44} precision  recall  W1 ratio  estimate's fall  seconds")
    print(f"{f'{len(held_out)} real held-out digits':<44} {precision:9.3f} {recall:7.3f}")
    for path in arguments.runs:
        folder = RunFolder(path)
        fake = _samples(folder, arguments.raw)
        precision, recall = precision_recall(train, fake)
        ratio = exact_wasserstein(fake[:PAIRS], held_out[:PAIRS]) / floor
        print(
            f"{path!s:<44} {precision:9.3f} {recall:7.3f} {ratio:9.3f} {_fall(folder):16.3f}"
            f" {read_status(folder.path).seconds:8.1f}"
        )


def _samples(folder: RunFolder, raw: bool) -> Tensor:
    state, _, _ = load_newest(folder.checkpoints)
    if state is None:
        raise SystemExit(f"{folder.path} holds no checkpoint.")
    config = state["config"]
    generator = build_generator(config["model"], config["latent_dim"], state["sample_shape"])
    averaged = "generator_ema" in state and not raw
    generator.load_state_dict(state["generator_ema" if averaged else "generator"])
    draws = Draws(SEED, Stream.SAMPLES)
    return generate(generator, draws.normal((COUNT, config["latent_dim"]), torch.device("cpu")))


def _fall(folder: RunFolder) -> float:
    """Return the estimate's mean over the last tenth of the run, divided by its maximum."""
    points = [point for point in folder.read_metrics() if "critic/wasserstein" in point]
    last = points[-1]["step"]
    tail = [p["critic/wasserstein"] for p in points if p["step"] > 0.9 * last]
    return sum(tail) / len(tail) / max(p["critic/wasserstein"] for p in points)


if __name__ == "__main__":
    main()
