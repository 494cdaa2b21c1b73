"""The classifier of stacked images: closed forms, and the modes of a small stacked set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from wgan_cli.data.dataset import Labels, TensorDataset
from wgan_cli.data.feeds import to_floats
from wgan_cli.errors import DataError
from wgan_cli.evaluation.comparison import Comparison
from wgan_cli.evaluation.registry import TABLE
from wgan_cli.evaluation.samples import Reference, Samples
from wgan_cli.metrics.classifier import ChannelClassifier
from wgan_cli.metrics.classifier_training import trained_channel_classifier
from wgan_cli.pictures import FAKE, REAL, class_histogram

CPU = torch.device("cpu")


class Known(nn.Module):
    """Features and logits of a single channel are its first pixels."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        assert images.shape[1] == 1
        pixels = images.flatten(1)
        return pixels[:, :2], pixels[:, :4]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_logits_are_the_products_of_the_channels_probabilities(channels: int):
    images = torch.randn(5, channels, 3, 3, generator=torch.Generator().manual_seed(0))
    features, logits = ChannelClassifier(Known())(images)
    assert torch.equal(features, images.flatten(2)[:, :, :2].flatten(1))
    assert logits.shape == (5, 4**channels)
    own = images.flatten(2)[:, :, :4].softmax(dim=2)
    for label in range(4**channels):
        digits = np.base_repr(label, 4).zfill(channels)
        expected = torch.stack([own[:, c, int(d)] for c, d in enumerate(digits)]).prod(dim=0)
        assert torch.allclose(logits[:, label].exp(), expected, atol=1e-6)
    most = own.argmax(dim=2) @ (4 ** torch.arange(channels - 1, -1, -1))
    assert torch.equal(logits.argmax(dim=1), most)


def stacked_digits(train: int, held_out: int) -> TensorDataset:
    """Pairs of scikit-learn's 0, 1 and 2, as two channels: nine modes."""
    loaded = load_digits(n_class=3)
    images = torch.from_numpy(np.round(loaded.images * (255 / 16)).astype(np.uint8))
    digits = torch.from_numpy(loaded.target)
    rng = np.random.default_rng(0)
    parts = []
    # Different digits for the two parts.
    for places, count in ((range(400), train), (range(400, len(images)), held_out)):
        chosen = torch.from_numpy(rng.choice(places, (count, 2)))
        parts.append((images[chosen], digits[chosen] @ torch.tensor([3, 1])))
    (seen, labels), (unseen, others) = parts
    return TensorDataset("pairs", seen, unseen, Labels(labels, others, channel_classes=3))


def of_classes(data: TensorDataset, wanted: list[int]) -> Samples:
    assert data.labels is not None
    chosen = to_floats(data.held_out[torch.isin(data.labels.held_out, torch.tensor(wanted))])
    return Samples(chosen, lambda: chosen.split(32))


@pytest.mark.exhaustive
def test_the_modes_of_stacked_images_are_found(tmp_path: Path):
    data = stacked_digits(600, 900)
    reference = Reference(data, CPU, tmp_path, eval_samples=8)
    network = reference.network("classifier")
    assert isinstance(network, ChannelClassifier)
    assert reference.classifier_accuracy is not None
    assert reference.classifier_accuracy > 0.97
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("classifier-pairs-by-channel-")

    found = TABLE["metrics/classes_found"]
    assert found.number is not None
    for wanted in ([0], [2, 6], [1, 3, 5, 7], list(range(9))):
        shown = of_classes(data, wanted)
        comparison = Comparison(reference, shown, nn.Identity(), seed=0)
        counts = comparison.class_counts
        assert counts.sum() == len(shown.eval_set)
        assert counts[wanted].sum() > 0.93 * len(shown.eval_set)
        assert found.number(comparison) == int((counts > 0).sum()) >= len(wanted)
    floor = Comparison(reference, reference.floor_samples, nn.Identity(), seed=0)
    assert found.number(floor) == 9


class Told:
    """A comparison of samples of known classes."""

    def __init__(self, counts: list[int]) -> None:
        self.class_counts = torch.tensor(counts)


@pytest.mark.parametrize(
    ("counts", "expected"), [([5, 0, 1], 2), ([0, 0, 9], 1), ([1, 1, 1], 3), ([0, 0, 0], 0)]
)
def test_a_class_is_found_by_one_sample(counts: list[int], expected: int):
    number = TABLE["metrics/classes_found"].number
    assert number is not None
    assert number(Told(counts)) == expected


@pytest.mark.charts
@pytest.mark.parametrize("classes", [10, 64, 65, 1000])
def test_a_collapse_to_one_class_is_seen(classes: int):
    real, fake = np.full(classes, 10), np.zeros(classes, dtype=int)
    fake[classes // 2] = 10_000
    left_of_the_legend = class_histogram(real, fake)[:, :300]
    for colour in (REAL, FAKE):
        wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        assert (left_of_the_legend == wanted).all(axis=2).sum() > 5


def test_a_missing_last_class_is_an_error(tmp_path: Path):
    data = stacked_digits(300, 60)
    assert data.labels is not None
    with pytest.raises(DataError, match="no channel has the last of the 10 classes"):
        trained_channel_classifier(
            "pairs",
            (data.train, data.labels.train),
            (data.held_out, data.labels.held_out),
            10,
            tmp_path,
            print,
        )
