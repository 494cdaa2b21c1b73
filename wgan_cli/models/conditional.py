"""How a class enters networks: behind a generator's latent, and in a critic's last layer.

Both modules are there without classes too, where they hold nothing and change nothing.
"""

import torch
from torch import Tensor, nn

from wgan_cli.models.precision import as_float32, kept_in_float32

_LONGEST = 128


def check_labels(classes: int | None, labels: Tensor | None) -> None:
    """Raise `ValueError` unless labels come exactly where a network was made with `classes`."""
    if classes is None and labels is not None:
        raise ValueError("labels were given to a network that was made without classes")
    if classes is not None and labels is None:
        raise ValueError(f"a network made with {classes} classes needs labels")


class ClassLatent(nn.Module):
    """Appends a learned vector of the class to the latent.

    The vector is as long as the latent, at most 128, and starts from N(0, 1) as the latent does.
    `size` is the length of both together, latent_dim without `classes`.
    """

    def __init__(self, latent_dim: int, classes: int | None) -> None:
        super().__init__()
        self.classes = classes
        self.size = latent_dim
        if classes is not None:
            self.vectors = nn.Embedding(classes, min(latent_dim, _LONGEST))
            self.size += self.vectors.embedding_dim

    def forward(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        """(batch, latent_dim) and labels (batch,) to (batch, size)."""
        check_labels(self.classes, labels)
        return latent if labels is None else torch.cat([latent, self.vectors(labels)], dim=1)


class Projection(nn.Module):
    """The class's part of a score (arXiv 1802.05637, equation 3).

    With phi(x) what the critic's last layer w sees, f(x, y) = w phi(x) + e_y phi(x), with a learned
    e_y for each class. So every class has a last layer of its own, w + e_y.
    """

    def __init__(self, features: int, classes: int | None) -> None:
        super().__init__()
        self.classes = classes
        if classes is not None:
            self.vectors = kept_in_float32(nn.Embedding(classes, features))
            # The scale of w, or the class would outweigh all that the classes have in common.
            nn.init.xavier_uniform_(self.vectors.weight)

    def forward(self, scores: Tensor, features: Tensor, labels: Tensor | None) -> Tensor:
        """Scores (batch,), features (batch, features) and labels (batch,) to scores (batch,)."""
        check_labels(self.classes, labels)
        if labels is None:
            return scores
        return scores + (self.vectors(labels) * as_float32(features)).sum(dim=1)
