"""The classifier: its accuracy, its reproducibility, and the safety of its cache file."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from wgan_cli.errors import DataError
from wgan_cli.metrics import classifier_training as module
from wgan_cli.metrics.classifier import Classifier, extract
from wgan_cli.metrics.classifier_cache import _checksum, key_of
from wgan_cli.metrics.classifier_training import TrainedClassifier, trained_classifier


def stripes(
    n: int, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Images with a bright left or right half, and labels that say which."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 150, (n, *shape), generator=generator)
    labels = torch.arange(n) % 2
    half = shape[2] // 2
    images[labels == 0, :, :, :half] += 100
    images[labels == 1, :, :, half:] += 100
    return images.to(torch.uint8), labels


def train(cache: Path, tell: Callable[[str], None], **changed: Any) -> TrainedClassifier:
    images, labels = stripes(64)
    more, more_labels = stripes(32, seed=1)
    given = {
        "name": "stripes",
        "train": images,
        "train_labels": labels,
        "held_out": more,
        "held_out_labels": more_labels,
        **changed,
    }
    train, held_out = ((given[part], given[f"{part}_labels"]) for part in ("train", "held_out"))
    return trained_classifier(given["name"], train, held_out, cache, tell)


def weights(found: TrainedClassifier) -> dict[str, Tensor]:
    return found.network.state_dict()


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


class Largest(TorchFunctionMode):
    """Records the size of the largest boolean tensor."""

    numbers = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype == torch.bool:
            self.numbers = max(self.numbers, result.numel())
        return result


def test_equal_images_are_detected_with_little_memory(tmp_path: Path):
    images, labels = torch.full((2000, 1, 8, 8), 7, dtype=torch.uint8), torch.arange(2000) % 2
    with Largest() as largest, pytest.raises(DataError, match="all its images are equal"):
        train(tmp_path, print, train=images, train_labels=labels)
    assert 0 < largest.numbers < images.numel() / 2


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 8)
    monkeypatch.setattr(module, "EPOCHS", 1)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_digits_are_classified(tmp_path: Path):
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = torch.from_numpy(np.round(loaded.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(loaded.target).long()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    held, rest = order[:359], order[359:]
    said: list[str] = []
    found = trained_classifier(
        "digits",
        (images[rest], labels[rest]),
        (images[held], labels[held]),
        tmp_path,
        said.append,
    )
    assert found.accuracy >= 0.96
    _, logits = extract(found.network, images[held].float() / 127.5 - 1)
    right = (logits.argmax(dim=1) == labels[held]).double().mean()
    assert found.accuracy == pytest.approx(float(right))
    assert found.trained_now
    assert found.path.is_file()
    assert len(said) == 2
    assert "digits" in said[0]
    assert f"{found.accuracy:.1%}" in said[1]
    assert str(found.path) in said[1]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 64, 64), (1, 28, 28), (3, 8, 40), (1, 33, 9)])
def test_images_of_any_sides_from_8_give_128_features_and_the_logits(shape: tuple[int, int, int]):
    network = Classifier(shape, classes=7).eval()
    images = torch.rand(5, *shape) * 2 - 1
    features, logits = extract(network, images, batch=2)
    assert features.shape == (5, 128)
    assert logits.shape == (5, 7)
    assert float(features.std(dim=0).max()) > 0
    assert not features.requires_grad
    alone, _ = extract(network, images[3:4])
    assert torch.allclose(alone, features[3:4], atol=1e-5)
    assert torch.allclose(network.head(features), logits, atol=1e-5)


def test_the_second_call_reads_the_first_ones_file(tmp_path: Path, short: None):
    said: list[str] = []
    first = train(tmp_path / "new" / "cache", said.append)
    second = train(tmp_path / "new" / "cache", said.append)
    assert (first.trained_now, second.trained_now) == (True, False)
    assert (first.accuracy, first.path) == (second.accuracy, second.path)
    assert equal(weights(first), weights(second))
    assert len(said) == 2
    assert not first.network.training
    assert not second.network.training
    assert [file.name for file in first.path.parent.iterdir()] == [first.path.name]


# One thread trains the smaller images, two the larger.
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 20, 20)])
def test_weights_do_not_depend_on_threads_or_global_state(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: Callable[[int], None],
    shape: tuple[int, int, int],
):
    monkeypatch.setattr(module, "STEPS", 8)
    monkeypatch.setattr(module, "EPOCHS", 1)
    images = {"train": stripes(64, shape)[0], "held_out": stripes(32, shape, seed=1)[0]}
    threads(1)
    torch.manual_seed(1)
    with torch.no_grad():
        first = train(tmp_path / "a", print, **images)
    assert torch.get_num_threads() == 1
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    threads(2)
    second = train(tmp_path / "b", print, **images)
    assert torch.get_num_threads() == 2
    assert equal(weights(first), weights(second))
    assert first.path.name == second.path.name
    assert all(p.grad is None for p in first.network.parameters())


def test_other_data_labels_and_recipes_have_other_files(
    tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
):
    images, labels = stripes(64)
    other = images.clone()
    other[5, 0, 3, 3] += 1
    found = [
        train(tmp_path, print),
        train(tmp_path, print, train=other),
        train(tmp_path, print, train_labels=1 - labels),
        train(tmp_path, print, held_out_labels=1 - stripes(32, seed=1)[1]),
        train(tmp_path, print, name="../sub folder/x"),
    ]
    monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    found.append(train(tmp_path, print))
    assert all(one.trained_now for one in found)
    assert len({one.path for one in found}) == 6
    assert {one.path.parent for one in found} == {tmp_path}


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return self.mark.mkdir, ()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-900])


def noise(path: Path) -> None:
    path.write_bytes(b"not a file of torch's")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def a_weight(path: Path) -> None:
    kept = torch.load(path, weights_only=True)
    kept["weights"]["head.bias"][0] += 1
    torch.save(kept, path)


def the_accuracy(path: Path) -> None:
    torch.save({**torch.load(path, weights_only=True), "accuracy": 1.5}, path)


def another_shape(path: Path) -> None:
    """A file with a valid checksum whose loading fails after some weights."""
    kept = torch.load(path, weights_only=True)
    changed = {name: value + 1 for name, value in kept["weights"].items()}
    changed["head.weight"] = torch.zeros(3, 3)
    key = key_of(module._recipe(), *stripes(64), *stripes(32, seed=1))
    seal = _checksum(key, changed, kept["accuracy"])
    torch.save({"weights": changed, "accuracy": kept["accuracy"], "sha256": seal}, path)


def code(path: Path) -> None:
    torch.save({"weights": Payload(path.parent / "ran")}, path)


@pytest.mark.parametrize("damage", [cut, noise, empty, a_weight, the_accuracy, another_shape, code])
def test_a_damaged_or_foreign_file_is_made_anew(
    tmp_path: Path, short: None, damage: Callable[[Path], None]
):
    first = train(tmp_path, print)
    damage(first.path)
    said: list[str] = []
    again = train(tmp_path, said.append)
    assert again.trained_now
    assert equal(weights(first), weights(again))
    assert again.accuracy == first.accuracy
    assert "damaged" in said[0]
    assert len(said) == 3
    assert not (tmp_path / "ran").exists()
    assert not train(tmp_path, said.append).trained_now


def test_a_folder_that_cannot_be_written_only_prevents_caching(tmp_path: Path, short: None):
    (tmp_path / "file").write_text("in the way")
    said: list[str] = []
    found = train(tmp_path / "file", said.append)
    assert found.trained_now
    assert 0 <= found.accuracy <= 1
    assert "not cached" in said[-1]
    assert str(tmp_path / "file") in said[-1]


def test_a_failed_write_leaves_no_part_of_a_file(
    tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
):
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    said: list[str] = []
    train(tmp_path, said.append)
    assert "not cached: The disk is full" in said[-1]
    assert list(tmp_path.iterdir()) == []


def train_apart(cache: str, results: Any) -> None:
    module.STEPS, module.EPOCHS = 8, 1
    found = train(Path(cache), lambda line: None)
    results.put((found.accuracy, float(found.network.head.weight.detach().sum())))


def test_two_processes_at_once_both_succeed(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    both = [context.Process(target=train_apart, args=(str(tmp_path), results)) for _ in range(2)]
    for process in both:
        process.start()
    found = [results.get(timeout=120) for _ in both]
    for process in both:
        process.join(timeout=120)
    assert found[0] == found[1]
    assert [process.exitcode for process in both] == [0, 0]
    assert len(list(tmp_path.iterdir())) == 1


def test_what_no_classifier_can_learn_is_refused(tmp_path: Path):
    images, labels = stripes(64)
    refused = [
        ({"train_labels": torch.zeros(64, dtype=torch.int64)}, "fewer than two classes"),
        ({"train_labels": labels - 1}, "fewer than two classes"),
        ({"train": torch.full_like(images, 7)}, "all its images are equal"),
        ({"train_labels": labels[:60]}, "64 images and 60 labels"),
        ({"held_out_labels": labels[:3]}, "32 images and 3 labels"),
        ({"held_out": images[:0], "held_out_labels": labels[:0]}, "0 images and 0 labels"),
        ({"train": images[..., :7]}, "8x7 are smaller than 8x8"),
    ]
    for changed, message in refused:
        with pytest.raises(DataError, match=message):
            train(tmp_path, print, **changed)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="8x8"):
        Classifier((1, 8, 7), 2)


def test_every_image_is_seen_once_before_any_is_seen_again():
    drawn = module._batches(300)
    seen = torch.cat([next(drawn) for _ in range(7)])
    for epoch in seen[:600].split(300):
        assert torch.equal(epoch.sort().values, torch.arange(300))
    assert not torch.equal(seen[:300], seen[300:600])


@pytest.mark.parametrize(
    ("n", "shape", "epochs"),
    [
        (60_000, (1, 28, 28), (0.5, 0.8)),
        (50_000, (3, 32, 32), (1.4, 1.9)),
        (1438, (1, 8, 8), (26, 30)),
    ],
)
def test_the_number_of_training_steps_depends_on_the_data(
    n: int, shape: tuple[int, int, int], epochs: tuple[float, float]
):
    steps = module._steps(torch.empty((1, *shape), dtype=torch.uint8).expand(n, *shape))
    assert epochs[0] <= steps * module.BATCH / n <= epochs[1]
