"""Modules that add the class to a generator's latent or to a critic's score.

Unconditional networks use the same modules, which then have no weights and change nothing.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wgan_cli.models.precision import mark_float32, to_float32

_MAX_LENGTH = 128


def check_labels(classes: int | None, labels: Tensor | None) -> None:
    """Raise `ValueError` if labels are missing for a network with classes, or given without."""
    if classes is None and labels is not None:
        raise ValueError("a network without classes was given labels")
    if classes is not None and labels is None:
        raise ValueError(f"a network with {classes} classes needs labels")


def with_labels(network: nn.Module, labels: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return a function of one argument that calls the network with the given labels, if any."""
    if labels is None:
        return network
    return lambda inputs: network(inputs, labels)


class ClassLatent(nn.Module):
    """Appends a learned embedding of the class to the latent.

    The embedding has min(latent_dim, 128) dimensions and is initialised from N(0, 1), like the
    latent. The attribute `size` is the length of the result. If `classes` is None, nothing is
    appended, and `size` is latent_dim.
    """

    def __init__(self, latent_dim: int, classes: int | None) -> None:
        super().__init__()
        self.classes = classes
        self.size = latent_dim
        if classes is not None:
            self.vectors = nn.Embedding(classes, min(latent_dim, _MAX_LENGTH))
            self.size += self.vectors.embedding_dim

    def forward(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        """Map latents (batch, latent_dim) and labels (batch,) to (batch, size)."""
        check_labels(self.classes, labels)
        return latent if labels is None else torch.cat([latent, self.vectors(labels)], dim=1)


class Projection(nn.Module):
    """Adds a class term to the score, as in the projection critic (arXiv 1802.05637, eq. 3).

    The score is f(x, y) = w phi(x) + e_y phi(x). Here w is the critic's last layer, phi(x) is its
    input, and e_y is a learned embedding of class y. So each class has its own last layer, w + e_y.
    """

    def __init__(self, features: int, classes: int | None) -> None:
        super().__init__()
        self.classes = classes
        if classes is not None:
            self.vectors = mark_float32(nn.Embedding(classes, features))
            # Initialise e_y at the scale of w: values from N(0, 1) would dominate the score.
            nn.init.xavier_uniform_(self.vectors.weight)

    def forward(self, scores: Tensor, features: Tensor, labels: Tensor | None) -> Tensor:
        """Map scores (batch,), features (batch, features), labels (batch,) to scores (batch,)."""
        check_labels(self.classes, labels)
        if labels is None:
            return scores
        return scores + (self.vectors(labels) * to_float32(features)).sum(dim=1)
