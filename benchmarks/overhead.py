"""What looking at a run costs: python -m benchmarks.overhead [wgan-train's words].

Times housekeeping (logging, pictures, histograms, evaluations, checkpoints) inside one run.
"""

from __future__ import annotations

import sys
import time

from wgan_cli.commands import train
from wgan_cli.training.trainer import Trainer


def main() -> None:
    """Run the command and print the share of its time that went into housekeeping."""
    spent = {"housekeeping": 0.0, "all": 0.0}
    fit, housekeeping = Trainer.fit, Trainer.housekeeping

    def timed_fit(trainer: Trainer) -> None:
        start = time.perf_counter()
        fit(trainer)
        spent["all"] += time.perf_counter() - start

    def timed_housekeeping(trainer: Trainer) -> None:
        start = time.perf_counter()
        housekeeping(trainer)
        spent["housekeeping"] += time.perf_counter() - start

    Trainer.fit = timed_fit  # type: ignore[method-assign, assignment]
    Trainer.housekeeping = timed_housekeeping  # type: ignore[method-assign, assignment]
    code = train.run(sys.argv[1:])
    if code == 0:
        share = spent["housekeeping"] / spent["all"]
        print(f"housekeeping {spent['housekeeping']:.2f} s of {spent['all']:.2f} s: {share:.1%}")
    sys.exit(code)


if __name__ == "__main__":
    main()
