"""The gain of our CPU convolutions in a bf16 copy, by layer: python -m benchmarks.convolutions.

Prints milliseconds of torch's layer and of ours, measured alternately in bfloat16 (the critic's
last layer in float32): the forward pass, and forward plus backward to maps and weights.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn

from benchmarks.measuring import Loop, Stopwatch
from benchmarks.workloads import composed
from wgan_cli.acceleration.fast_convolutions import use_fast_convolutions

Layer = nn.Conv2d | nn.ConvTranspose2d
ROUNDS = 9
# Name, layer, batch size, and side of its input map.
LAYERS: Sequence[tuple[str, Layer, int, int]] = (
    ("critic, 4x4 to a score", nn.Conv2d(256, 1, 4), 128, 4),
    ("critic, 128 of 8x8 to 256", nn.Conv2d(128, 256, 4, 2, 1), 128, 8),
    ("critic, 256 of 8x8 to 512", nn.Conv2d(256, 512, 4, 2, 1), 128, 8),
    ("critic, 128 of 16x16 to 256", nn.Conv2d(128, 256, 4, 2, 1), 128, 16),
    ("generator, 64 to 256 of 4x4", nn.ConvTranspose2d(64, 256, 4), 64, 1),
    ("generator, 512 of 4x4 to 256", nn.ConvTranspose2d(512, 256, 4, 2, 1), 64, 4),
    ("generator, 256 of 8x8 to 128", nn.ConvTranspose2d(256, 128, 4, 2, 1), 64, 8),
    ("generator, 64 of 16x16 to 3", nn.ConvTranspose2d(64, 3, 4, 2, 1), 64, 16),
    ("generator, 64 of 32x32 to 3", nn.ConvTranspose2d(64, 3, 4, 2, 1), 64, 32),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":", 1)[0])
    parser.add_argument("--seconds", type=float, default=0.2, help="approximate time of a block")
    seconds = parser.parse_args().seconds
    # Set threads and memory up like a run.
    composed([])
    print(f"{'':<30}{'forward':>20}{'and backward':>20}")
    print(f"{'layer':<30}" + f"{'torch':>12}{'ours':>8}" * 2)
    for name, layer, batch, size in LAYERS:
        times = compared(layer, batch, size, seconds)
        print(f"{name:<30}" + "".join(f"{one:12.2f}{other:8.2f}" for one, other in times))


def compared(layer: Layer, batch: int, size: int, seconds: float) -> list[tuple[float, float]]:
    """Return median milliseconds of torch's layer and ours, without and with the backward pass."""
    score = isinstance(layer, nn.Conv2d) and layer.out_channels == 1
    dtype = torch.float32 if score else torch.bfloat16
    torchs = copy.deepcopy(layer).to(dtype).to(memory_format=torch.channels_last)
    ours = copy.deepcopy(torchs)
    use_fast_convolutions(ours)
    maps = torch.randn(batch, layer.in_channels, size, size)
    maps = maps.to(dtype=dtype, memory_format=torch.channels_last).requires_grad_(True)
    gradient = torch.randn_like(torchs(maps))

    def forward(one: Layer) -> object:
        return one(maps)

    def both(one: Layer) -> object:
        return torch.autograd.grad(one(maps), [maps, *one.parameters()], gradient)

    watch, found = Stopwatch(torch.device("cpu"), 1, seconds), []
    works: tuple[Callable[[Layer], object], ...] = forward, both
    for work in works:
        loops = {
            name: Loop(partial(work, one), nullcontext)
            for name, one in (("torch", torchs), ("ours", ours))
        }
        times = watch.times(loops, ROUNDS)
        found.append((times["torch"].median, times["ours"].median))
    return found


if __name__ == "__main__":
    main()
