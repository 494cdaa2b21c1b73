"""A command imports only what it uses: imports are most of the time before the first step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY

from wgan_cli.commands.train import run as train

# torch._dynamo is torch's compiler, which takes as long to import as torch itself.
SLOW = ("torchvision", "sklearn", "scipy", "matplotlib", "torch._dynamo")
EVEN_TORCH = (*SLOW, "tensorboard", "torch", "hydra", "numpy")

UNTIL_THE_FIRST_STEP = """
from wgan_cli.commands import train
from wgan_cli.training.trainer import Trainer

step = Trainer.train_step

def first_step(trainer):
    step(trainer)
    sys.exit()

Trainer.train_step = first_step
train.run(sys.argv[1:])
"""


def imported(code: str, *words: str, of: tuple[str, ...]) -> list[str]:
    """Which of these modules a new process has imported at the end of the code."""
    whole = f"""
import sys
try:
{"".join(f"    {line}" for line in code.strip().splitlines(True))}
finally:
    print("imported:", *(name for name in {of} if name in sys.modules))
"""
    command = [sys.executable, "-c", whole, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    last = done.stdout.splitlines()[-1:]
    assert last and last[0].startswith("imported:"), done.stderr
    return last[0].split()[1:]


@pytest.mark.parametrize(("words", "used"), [([], ["tensorboard"]), (["logger=none"], [])])
def test_the_first_step_of_the_default_run_comes_after_few_imports(
    words: list[str], used: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = imported(UNTIL_THE_FIRST_STEP, *words, of=(*SLOW, "tensorboard", "torch"))
    assert found == [*used, "torch"]


@pytest.mark.parametrize("model", ["mlp", "dcgan"])
def test_samples_need_few_imports(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["wgan-train"])
    words = TINY if model == "mlp" else ["steps=1", "n_critic=1", "metrics=[]", "model=dcgan"]
    assert train([*words, "hydra.run.dir=run"]) == 0
    code = "from wgan_cli.commands.sample import run\nassert run(sys.argv[1:]) == 0"
    found = imported(code, "run", of=(*SLOW, "tensorboard", "torch"))
    assert found == ["torch"]


@pytest.mark.parametrize("command", ["train", "sample", "evaluate", "search", "report"])
def test_arguments_are_parsed_before_the_imports(command: str) -> None:
    code = f"from wgan_cli.commands.{command} import run\nrun(['--help'])"
    assert imported(code, of=EVEN_TORCH) == []


def test_methods_that_others_wrapped_stay_wrapped() -> None:
    code = """
import functools
from torch.optim import Optimizer
from wgan_cli.plain_optimizers import unwrap_optimizers

before = Optimizer.zero_grad

@functools.wraps(before)
def noting(*arguments, **words):
    return before(*arguments, **words)

Optimizer.zero_grad = noting
unwrap_optimizers()
unwrap_optimizers()
assert Optimizer.zero_grad is noting
assert Optimizer.add_param_group.__globals__["__name__"] == "torch.optim.optimizer"
"""
    assert imported(code, of=SLOW) == []
