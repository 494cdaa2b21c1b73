"""The training loop of common tutorials, as a baseline for speed.

It is written as it is usually copied: a DataLoader with ToTensor and Normalize, a generator pass
whose graph is discarded, `zero_grad`, a Python loop that clamps each parameter, `.item()` after
every update, float32, and no compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms


class PilImages(Dataset[tuple[Tensor, int]]):
    """Serves images uint8 (n, h, w[, 3]) in memory as torchvision's CIFAR10 does."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.transform = to_floats(pixels.shape[3] if pixels.ndim == 4 else 1)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), 0


def to_floats(channels: int) -> Any:
    """Return the two transforms of every tutorial, which map images to [-1, 1]."""
    half = (0.5,) * channels
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(half, half)])


def image_folder(root: str, size: int) -> Dataset[Any]:
    """Return an image folder that decodes and resizes each image on access."""
    return datasets.ImageFolder(
        root,
        transforms.Compose(
            [transforms.Resize(size), transforms.CenterCrop(size), *to_floats(3).transforms]
        ),
    )


class Textbook:
    """Algorithm 1 of arXiv 1701.07875, or that of 1704.00028 if `clip` is None, by `step`.

    `latent` gives the noise, so that another loop can use the same.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        generator_optimizer: torch.optim.Optimizer,
        critic_optimizer: torch.optim.Optimizer,
        batches: Iterator[Tensor],
        latent: Callable[[], Tensor],
        *,
        n_critic: int,
        clip: float | None,
        penalty_weight: float = 10.0,
        shares: Callable[[int], Tensor] | None = None,
    ) -> None:
        self.generator = generator
        self.critic = critic
        self.generator_optimizer = generator_optimizer
        self.critic_optimizer = critic_optimizer
        self.batches = batches
        self.latent = latent
        self.n_critic = n_critic
        self.clip = clip
        self.penalty_weight = penalty_weight
        self.device = next(critic.parameters()).device
        self.shares = shares or (lambda n: torch.rand(n, device=self.device))
        self.critic_losses: list[float] = []
        self.generator_losses: list[float] = []

    def step(self) -> None:
        """Do n_critic critic updates and one generator update."""
        for _ in range(self.n_critic):
            self.critic_update()
        self.generator_update()

    def critic_update(self) -> None:
        """Do a critic update, including the constraint."""
        real = next(self.batches).to(self.device)
        fake = self.generator(self.latent()).detach()
        self.critic_optimizer.zero_grad()
        loss = -torch.mean(self.critic(real)) + torch.mean(self.critic(fake))
        if self.clip is None:
            loss = loss + self.penalty_weight * self.gradient_penalty(real, fake)
        loss.backward()
        self.critic_optimizer.step()
        if self.clip is not None:
            for parameter in self.critic.parameters():
                parameter.data.clamp_(-self.clip, self.clip)
        self.critic_losses.append(loss.item())

    def generator_update(self) -> None:
        """Do a generator update; the next `zero_grad` discards the critic's gradients."""
        self.generator_optimizer.zero_grad()
        loss = -torch.mean(self.critic(self.generator(self.latent())))
        loss.backward()
        self.generator_optimizer.step()
        self.generator_losses.append(loss.item())

    def gradient_penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the gradient penalty, as in most implementations of WGAN-GP."""
        share = self.shares(len(real)).view(-1, 1, 1, 1)
        points = (share * real + (1 - share) * fake).requires_grad_(True)
        scores = self.critic(points)
        (gradients,) = torch.autograd.grad(
            outputs=scores,
            inputs=points,
            grad_outputs=torch.ones_like(scores),
            create_graph=True,
            retain_graph=True,
        )
        norms = gradients.view(len(real), -1).norm(2, dim=1)
        return ((norms - 1) ** 2).mean()


def endless(loader: DataLoader[Any]) -> Generator[Tensor, None, None]:
    """Yield the batches of a loader, epoch after epoch."""
    while True:
        for images, _ in loader:
            yield images


def loader(images: Dataset[Any], batch_size: int, workers: int) -> DataLoader[Any]:
    """Return a shuffling loader that drops a short last batch, which BatchNorm needs."""
    return DataLoader(images, batch_size, shuffle=True, drop_last=True, num_workers=workers)
