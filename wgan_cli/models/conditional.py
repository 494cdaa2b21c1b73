"""How networks use the class of a sample: in a generator's latent, and in a critic's last layer.

Unconditional networks contain both modules too; there they have no weights and change nothing.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wgan_cli.models.precision import mark_float32, to_float32

_MAX_LENGTH = 128


def check_labels(classes: int | None, labels: Tensor | None) -> None:
    """Raise `ValueError` if a network with `classes` gets no labels, or one without gets some."""
    if classes is None and labels is not None:
        raise ValueError("a network without classes was given labels")
    if classes is not None and labels is None:
        raise ValueError(f"a network with {classes} classes needs labels")


def with_labels(network: nn.Module, labels: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return a network as a function of its first argument, with the classes `labels` fixed."""
    if labels is None:
        return network
    return lambda inputs: network(inputs, labels)


class ClassLatent(nn.Module):
    """Appends a learned embedding of the class to the latent.

    The embedding is as long as the latent, at most 128, and is initialised from N(0, 1) like the
    latent. `size` is the length of the result: latent_dim if there are no `classes`.
    """

    def __init__(self, latent_dim: int, classes: int | None) -> None:
        super().__init__()
        self.classes = classes
        self.size = latent_dim
        if classes is not None:
            self.vectors = nn.Embedding(classes, min(latent_dim, _MAX_LENGTH))
            self.size += self.vectors.embedding_dim

    def forward(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        """Map (batch, latent_dim) and labels (batch,) to (batch, size)."""
        check_labels(self.classes, labels)
        return latent if labels is None else torch.cat([latent, self.vectors(labels)], dim=1)


class Projection(nn.Module):
    """Adds the class's term to a score: the projection critic (arXiv 1802.05637, equation 3).

    With phi(x) the input of the critic's last layer w, f(x, y) = w phi(x) + e_y phi(x), where e_y
    is a learned embedding of the class. In effect, each class has its own last layer, w + e_y.
    """

    def __init__(self, features: int, classes: int | None) -> None:
        super().__init__()
        self.classes = classes
        if classes is not None:
            self.vectors = mark_float32(nn.Embedding(classes, features))
            # Initialise e_y at the scale of w: at N(0, 1) it would dominate the score.
            nn.init.xavier_uniform_(self.vectors.weight)

    def forward(self, scores: Tensor, features: Tensor, labels: Tensor | None) -> Tensor:
        """Map scores (batch,), features (batch, features), labels (batch,) to scores (batch,)."""
        check_labels(self.classes, labels)
        if labels is None:
            return scores
        return scores + (self.vectors(labels) * to_float32(features)).sum(dim=1)
