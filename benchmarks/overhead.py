"""The time that housekeeping takes: python -m benchmarks.overhead [OVERRIDE ...].

Times logging, pictures, histograms, evaluations and checkpoints within one run, and each metric of
its evaluations.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from wgan_cli.commands import train
from wgan_cli.evaluation.evaluation import Evaluation, EvaluationResult
from wgan_cli.training.trainer import Trainer

Seconds = defaultdict[str, float]


def main() -> None:
    """Run the command, and print the fraction of its time that housekeeping took."""
    spent: Seconds = defaultdict(float)
    metrics: Seconds = defaultdict(float)
    fit, measure = Trainer.fit, Evaluation.__call__

    def timed_fit(trainer: Trainer) -> None:
        for callback in trainer.callbacks:
            name = f"{callback.phase}: {type(callback).__name__}"
            callback.on_step = _timed(spent, name, callback.on_step)  # type: ignore[method-assign]
        _timed(spent, "all", fit)(trainer)

    def split(evaluation: Evaluation, *networks: Any) -> EvaluationResult:
        found = measure(evaluation, *networks)
        for metric, seconds in found.seconds.items():
            metrics[metric] += seconds
        return found

    Trainer.fit = timed_fit  # type: ignore[method-assign, assignment]
    Trainer.housekeeping = _timed(spent, "housekeeping", Trainer.housekeeping)  # type: ignore[method-assign]
    Evaluation.__call__ = _timed(spent, "evaluation", split)  # type: ignore[method-assign]
    code = train.run(sys.argv[1:])
    if code == 0:
        _print(spent, metrics)
    sys.exit(code)


def _timed(spent: Seconds, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its time is added to `spent[name]`."""

    def timed(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spent[name] += time.perf_counter() - start

    return timed


def _print(spent: Seconds, metrics: Seconds) -> None:
    whole, looking = spent.pop("all"), spent.pop("housekeeping")
    print(f"housekeeping {looking:.2f} s of {whole:.2f} s: {looking / whole:.1%}")
    spent["log: what is measured"] = looking - sum(spent.values())
    for title, parts in (("by phase and callback", spent), ("evaluations by metric", metrics)):
        print(title)
        for name, seconds in sorted(parts.items(), key=lambda part: -part[1]):
            print(f"  {name:<36}{seconds:8.3f} s{seconds / whole:8.2%}")


if __name__ == "__main__":
    main()
