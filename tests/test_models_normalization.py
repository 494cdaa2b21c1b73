"""Normalisation layers against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wgan_cli.models.normalization import ClassNorm2d, norm2d

pytestmark = pytest.mark.usefixtures("one_seeded_thread")
KINDS = ["none", "batch", "layer", "group"]


def maps(channels: int = 24) -> Tensor:
    return 3 * torch.randn(5, channels, 4, 6, generator=torch.Generator().manual_seed(1)) + 2


def standardised(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    mean = values.mean(axes, keepdim=True)
    variance = (values - mean).square().mean(axes, keepdim=True)
    return (values - mean) / (variance + 1e-5).sqrt()


def by_definition(kind: str, values: Tensor) -> Tensor:
    """24 channels make 3 groups of 8."""
    if kind == "batch":
        return standardised(values, (0, 2, 3))
    if kind == "layer":
        return standardised(values, (1, 2, 3))
    if kind == "group":
        return standardised(values.unflatten(1, (3, 8)), (2, 3, 4)).flatten(1, 2)
    return values


@pytest.mark.parametrize("kind", KINDS)
def test_a_norm_standardises_what_its_name_says(kind: str):
    torch.testing.assert_close(norm2d(kind, 24)(maps()), by_definition(kind, maps()))


@pytest.mark.parametrize("kind", ["batch", "layer", "group"])
def test_a_norm_has_a_scale_and_a_shift_per_channel(kind: str):
    layer = norm2d(kind, 24)
    assert [p.shape for p in layer.parameters()] == [(24,), (24,)]
    scale, shift = torch.randn(24), torch.randn(24)
    with torch.no_grad():
        layer.weight.copy_(scale)
        layer.bias.copy_(shift)
    expected = scale[:, None, None] * by_definition(kind, maps()) + shift[:, None, None]
    torch.testing.assert_close(layer(maps()), expected)
    assert list(norm2d(kind, 24, affine=False).parameters()) == []


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(1, 1), (8, 1), (12, 1), (15, 1), (16, 2), (24, 3), (64, 8), (100, 10), (256, 32), (1000, 25)],
)
def test_groups_divide_the_channels_at_most_32_of_at_least_8(channels: int, groups: int):
    layer = norm2d("group", channels)
    assert isinstance(layer, nn.GroupNorm)
    assert layer.num_groups == groups
    assert layer(maps(channels)).shape == (5, channels, 4, 6)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="none, batch, layer or group, not instance"):
        norm2d("instance", 8)


@pytest.mark.parametrize("kind", KINDS)
def test_each_class_has_a_scale_and_a_shift_of_its_own(kind: str):
    layer = ClassNorm2d(kind, 24, classes=3)
    labels = torch.tensor([2, 0, 0, 1, 2])
    torch.testing.assert_close(layer(maps(), labels), by_definition(kind, maps()))
    scale, shift = torch.randn(3, 24), torch.randn(3, 24)
    with torch.no_grad():
        layer.scale.copy_(scale)
        layer.shift.copy_(shift)
    expected = torch.stack(
        [
            scale[label][:, None, None] * sample + shift[label][:, None, None]
            for sample, label in zip(by_definition(kind, maps()), labels, strict=True)
        ]
    )
    torch.testing.assert_close(layer(maps(), labels), expected)


def test_class_conditional_batch_norm_is_seen_and_evaluates_by_running_statistics():
    layer = ClassNorm2d("batch", 24, classes=3)
    assert any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in layer.modules())
    labels = torch.tensor([2, 0, 0, 1, 2])
    for _ in range(200):
        layer(maps(), labels)
    layer.eval()
    together = layer(maps(), labels)
    torch.testing.assert_close(together[:1], layer(maps()[:1], labels[:1]))
    # Running variances are unbiased ones.
    torch.testing.assert_close(together, by_definition("batch", maps()), rtol=0.01, atol=0.01)
