"""Leading singular vectors by repeated squaring, against an exact decomposition in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from wgan_cli.constraints import SpectralNorm
from wgan_cli.constraints.singular_vectors import leading_left_vectors
from wgan_cli.constraints.spectral_norm import SpectralDivision, update_vectors_together

pytestmark = pytest.mark.usefixtures("one_seeded_thread")

SQUARINGS = 9


def error(matrix: Tensor, vector: Tensor) -> float:
    """How far |W^T u| is below the largest singular value, as a fraction of it."""
    exact = torch.linalg.svdvals(matrix.double())[0]
    return 1 - float(torch.linalg.vector_norm(vector.double() @ matrix.double()) / exact)


def with_singular_values(values: Tensor, columns: int) -> Tensor:
    left = torch.linalg.qr(torch.randn(len(values), len(values)))[0]
    return left * values @ torch.linalg.qr(torch.randn(columns, len(values)))[0].mT


def misleading(rows: int, second: float) -> Tensor:
    """The leading vector is spread over all rows but one, and the second is that one row."""
    spread = torch.full((rows - 1, 1), (rows - 1) ** -0.5)
    return torch.block_diag(torch.tensor([[second]]), spread @ spread.mT)


MATRICES = {
    "square": torch.randn(300, 300),
    "wide": torch.randn(40, 700),
    "tall": torch.randn(700, 40),
    "one row": torch.randn(1, 50),
    "one column": torch.randn(50, 1),
    "one number": torch.tensor([[-3.0]]),
    "one rank": torch.randn(60, 1) @ torch.randn(1, 90),
    "all singular values equal": with_singular_values(torch.ones(64), 64),
    "singular values within 2%": with_singular_values(torch.linspace(0.98, 1, 256), 300),
    "singular values within 0.1%": with_singular_values(torch.linspace(0.999, 1, 100), 100),
    "two largest almost equal": with_singular_values(torch.tensor([1, 0.9999, *[0.5] * 30]), 40),
    "tall, within 1%": with_singular_values(torch.linspace(0.99, 1, 90), 400).mT,
    "tiny": 1e-20 * torch.randn(50, 70),
    "huge": 1e20 * torch.randn(50, 70),
    "tiny and tall": 1e-20 * torch.randn(70, 50),
    "of two scales": torch.randn(50, 70) * torch.logspace(-20, 0, 50)[:, None],
    **{f"misleading, {r}": misleading(512, r) for r in (0.5, 0.985, 0.993, 0.9939, 0.9945, 0.9999)},
}


def test_errors_are_below_a_percent_for_any_matrix():
    vectors = leading_left_vectors(list(MATRICES.values()), SQUARINGS)
    for (name, matrix), vector in zip(MATRICES.items(), vectors, strict=True):
        assert vector.shape == matrix.shape[:1]
        assert float(vector.norm()) == pytest.approx(1, abs=1e-5), name
        bound = 1 - min(matrix.shape) ** (-1 / 2 ** (SQUARINGS + 1))
        assert -1e-5 <= error(matrix, vector) <= bound + 1e-5 < 0.01, name


def test_the_bound_for_fewer_squarings_is_reached_but_not_exceeded():
    """This matrix is nearly the worst, so the bound that the docstring states is sharp."""
    for squarings in (4, 6, 8):
        bound = math.log(512) / 2 ** (squarings + 1)
        worst = misleading(512, math.exp(-bound) * 1.0001)
        (vector,) = leading_left_vectors([worst], squarings)
        assert 0.9 * bound < error(worst, vector) <= bound


def test_zeros_and_weights_that_are_not_finite_harm_no_other_layer():
    nan, infinite = torch.ones(3, 4), torch.ones(4, 3)
    nan[0, 0], infinite[0, 0] = math.nan, math.inf
    others = [torch.zeros(3, 4), torch.zeros(4, 3), nan, infinite]
    *none, vector = leading_left_vectors([*others, MATRICES["huge"]], SQUARINGS)
    assert not any(bool(each.any()) for each in none)
    assert error(MATRICES["huge"], vector) < 0.001


LAYERS = {
    "linear": lambda: nn.Linear(20, 30),
    "one output": lambda: nn.Linear(20, 1),
    "convolution": lambda: nn.Conv2d(3, 8, 4),
    "channels_last": lambda: nn.Conv2d(3, 8, 4).to(memory_format=torch.channels_last),
    "transposed": lambda: nn.ConvTranspose2d(3, 5, 4),
    "embedding": lambda: nn.Embedding(10, 6),
}


@pytest.mark.parametrize("iterations", [24, 1])
def test_all_layers_are_updated_together(iterations: int):
    """24 keeps the 1%. With 1 there are 16 power iterations, which do not."""
    layers = {name: make() for name, make in LAYERS.items()}
    layers["misleading"] = nn.Linear(512, 512)
    SpectralNorm().wrap(nn.ModuleList(layers.values()))
    divisions = []
    for layer in layers.values():
        parametrizations = layer.parametrizations.weight
        with torch.no_grad():
            parametrizations.original.copy_(torch.randn_like(parametrizations.original))
        assert isinstance(parametrizations[0], SpectralDivision)
        divisions.append((parametrizations[0], parametrizations.original))
    with torch.no_grad():
        divisions[-1][1].copy_(misleading(512, 0.95))
    update_vectors_together(divisions, iterations)
    errors = {}
    for name, layer in layers.items():
        weight = layer.weight.detach().double()
        matrix = (weight.transpose(0, 1) if name == "transposed" else weight).flatten(1)
        errors[name] = float(torch.linalg.matrix_norm(matrix, 2)) - 1
    assert all(each > -1e-5 for each in errors.values())
    assert (max(errors.values()) < 0.01) == (iterations == 24)
