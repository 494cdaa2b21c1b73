"""Whether another checkout trains the same bits: python -m benchmarks.same_bits OTHER [RUN ...].

Runs short, varied commands with this checkout and with the one in the folder OTHER, both on the CPU
with one thread, and compares what they leave: exit code, every tensor and number of every
checkpoint, metrics without throughput, pictures, file names, curves and the final status. Exits
with 1 if anything differs. `--mnist FOLDER` adds runs on MNIST, which the folder must hold already.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from benchmarks.sample_images import smooth_images

HERE = Path(__file__).parents[1]
SMALL = "model.generator.width=16 model.critic.width=16"
# Several commands, separated by "; ", train one after another in the same folder.
RUNS = {
    "digits": "steps=60 eval_every=30",
    "bf16": "steps=60 precision=bf16 eval_every=30",
    "hinge": "loss=hinge clip=0.01 optimizer=adam steps=40 seed=3",
    "gan": "loss=gan loss.saturating=true optimizer=sgd optimizer.momentum=0.5 constraint=none"
    " decay.kind=linear ema=0.99 grad_clip.critic=0.1 steps=40",
    "warm-up": "optimizer.momentum=0.5 critic_warmup.steps=3 critic_warmup.n_critic=10"
    " critic_warmup.every=20 steps=40 decay.kind=cosine",
    "penalty": "experiment=wgan_gp_25gaussians steps=60 sample_every=30",
    "one-sided": "dataset=swiss_roll loss=hinge optimizer=adam constraint=gradient_penalty"
    " constraint.one_sided=true steps=60",
    "spectral": "constraint=spectral_norm optimizer=adam steps=30",
    "orthogonal": "constraint=orthogonal optimizer=adam steps=30",
    "lipschitz": "model=lipschitz_mlp constraint=none optimizer=adam steps=30",
    "conditional": "conditional=true optimizer=adam steps=30",
    "lines": "experiment=parallel_lines steps=60",
    "rollback": "constraint=none optimizer=sgd optimizer.lr=3 steps=200 on_divergence=rollback"
    " rollback.times=2 checkpoint_every=20 log_every=20",
    "resumed": "steps=25; resume=run steps=50",
    "images": "dataset=image_folder dataset.root={images} dataset.size=16 dataset.in_memory=false"
    " dataset.workers=2 dataset.flip=true model=dcgan optimizer=adam batch_size=16 steps=6"
    f" {SMALL}",
}
MNIST = {
    "mnist-mlp": "precision=bf16 steps=15 eval_every=15 eval_samples=200 feature_samples=500",
    "mnist-dcgan": f"precision=bf16 model=dcgan optimizer=adam ema=0.9 steps=5 {SMALL}"
    " model.critic.norm=batch metrics=[wasserstein/exact]",
    "mnist-resnet": "precision=bf16 model=resnet constraint=gradient_penalty optimizer=adam steps=2"
    f" n_critic=2 batch_size=8 {SMALL} metrics=[wasserstein/exact]",
}


def main() -> None:
    """Run the commands, print a line for each, and exit with 1 if a result differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="the folder of the other checkout")
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"some of {', '.join(RUNS)}")
    parser.add_argument("--mnist", type=Path)
    arguments = parser.parse_args()
    runs = dict(RUNS)
    if arguments.mnist is not None:
        root = shlex.quote(str(arguments.mnist.absolute()))
        prefix = f"dataset=mnist dataset.root={root} dataset.download=false"
        runs |= {name: f"{prefix} {words}" for name, words in MNIST.items()}
    if unknown := set(arguments.runs) - runs.keys():
        parser.error(f"there is no run {', '.join(sorted(unknown))}")
    if not (arguments.other / "wgan_cli").is_dir():
        parser.error(f"{arguments.other} holds no package wgan_cli")
    different = [
        name for name in arguments.runs or runs if _differs(name, runs[name], arguments.other)
    ]
    sys.exit(1 if different else 0)


def _differs(name: str, commands: str, other: Path) -> bool:
    """Run the commands with both checkouts; print and return whether the results differ."""
    if "{images}" in commands:
        commands = commands.format(images=shlex.quote(str(smooth_images(200, 24))))
    with tempfile.TemporaryDirectory() as folder:
        results = [
            _result(commands, checkout, Path(folder) / side)
            for side, checkout in (("this", HERE), ("other", other.absolute()))
        ]
    keys = [key for key in results[0] if results[0][key] != results[1].get(key)]
    keys += results[1].keys() - results[0].keys()
    print(
        f"{name:<14}{'the same' if not keys else 'DIFFERENT: ' + ', '.join(keys[:6])}", flush=True
    )
    return bool(keys)


def _result(commands: str, checkout: Path, folder: Path) -> dict[str, Any]:
    """Return all that the commands leave, by name, except times."""
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    result: dict[str, Any] = {}
    for number, words in enumerate(commands.split("; ")):
        command = [sys.executable, "-m", "wgan_cli", *shlex.split(words)]
        where = [] if "resume=" in words else ["threads=1", "device=cpu", "hydra.run.dir=run"]
        done = subprocess.run(
            [*command, *where], cwd=folder, env=environment, capture_output=True, check=False
        )
        result[f"exit code {number + 1}"] = done.returncode
    run = folder / "run"
    if not (run / "metrics.jsonl").is_file():
        return {**result, "error": done.stderr}
    result["files"] = sorted(
        str(path.relative_to(run)) for path in run.rglob("*") if "events" not in path.name
    )
    for path in sorted((run / "checkpoints").glob("step_*.pt")):
        state = torch.load(path, weights_only=True)
        kept = {key: value for key, value in state.items() if key not in ("config", "versions")}
        result |= {f"{path.name}{key}": value for key, value in _leaves(kept)}
    for path in sorted((run / "samples").glob("*.png")):
        result[path.name] = path.read_bytes()
    for text in (run / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        values = {tag: number for tag, number in line.items() if "throughput" not in tag}
        result[f"metrics at {line['step']}"] = values
    status = json.loads((run / "status.json").read_text())
    result |= {key: status[key] for key in ("state", "exit_code", "step", "message")}
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    for tag in events.Tags()["tensors"]:
        result[f"curve {tag}"] = [event.step for event in events.Tensors(tag)]
    return result


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and value of every leaf; a tensor's value is its bytes, type and shape."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{path}/{key}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{path}/{index}")
    elif isinstance(node, torch.Tensor):
        data = node.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        yield path, (data, node.dtype, tuple(node.shape))
    else:
        yield path, repr(node)


if __name__ == "__main__":
    main()
