"""The Inception network with random weights instead of the published ones: no download needed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from wgan_cli.errors import DataError
from wgan_cli.metrics import inception as module
from wgan_cli.metrics.classifier import extract
from wgan_cli.metrics.inception import inception, weights_path

NAME = "weights-inception-2015-12-05-6726825d.pth"


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random weights of the extractor's names and shapes, small enough to give finite features."""
    generator = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        patch.setattr(torch, "load", lambda *args, **kwargs: {})
        made = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path="unread")
        shapes = made.state_dict()
    found = {}
    for name, value in shapes.items():
        if name.endswith("running_var"):
            found[name] = torch.ones_like(value)
        elif value.ndim >= 2:
            scale = (2 / value[0].numel()) ** 0.5
            found[name] = scale * torch.randn(value.shape, generator=generator)
        elif name.endswith("bn.weight"):
            found[name] = torch.ones_like(value)
        else:
            found[name] = torch.zeros_like(value)
    return found


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "hub" / "checkpoints"


def publish(path: Path, content: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a weights file, and make its checksum the expected one."""
    path.parent.mkdir(parents=True)
    torch.save(content, path)
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())


def test_the_expected_hash_is_the_one_in_the_files_name():
    assert weights_path().name == NAME
    assert len(module.SHA256) == 64
    assert NAME.removesuffix(".pth").endswith(module.SHA256[:8])


def test_features_are_torch_fidelitys_own_of_the_same_weights(
    hub: Path, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
):
    publish(hub / NAME, weights, monkeypatch)
    assert weights_path() == hub / NAME
    network = inception()
    colours = torch.randint(0, 256, (2, 3, 20, 24), generator=torch.Generator().manual_seed(1))
    own = FeatureExtractorInceptionV3(
        "x", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(hub / NAME)
    )
    expected = own(colours.to(torch.uint8))
    # Within half a level, which the rounding to stored images undoes.
    floats = (colours + 0.3) / 127.5 - 1
    found = extract(network, floats, batch=1)
    for ours, theirs, width in zip(found, expected, (2048, 1008), strict=True):
        assert ours.shape == (2, width)
        assert not ours.requires_grad
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert float(found[0].std(dim=0).max()) > 0.01

    grey = floats[:1, :1]
    as_colour = network(grey.repeat(1, 3, 1, 1))
    for ours, theirs in zip(network(grey), as_colour, strict=True):
        assert torch.equal(ours, theirs)
    for shape in ((2, 2, 20, 20), (3, 20, 20), (0, 3, 20, 20)):
        with pytest.raises(ValueError, match="are needed"):
            network(torch.zeros(shape))
    with pytest.raises(ValueError, match="NaN"):
        network(torch.full((1, 3, 20, 20), float("nan")))


def test_a_file_that_cannot_be_fetched_is_an_error_with_the_reason(
    hub: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def offline(url: str, place: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url, place, hash_prefix))
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(DataError, match="no route to host") as caught:
        inception()
    assert asked == [(module.URL, str(hub / NAME), module.SHA256)]
    for part in (module.URL, str(hub / NAME), "metrics/fid_classifier"):
        assert part in str(caught.value)


def test_a_file_that_is_there_is_not_fetched_and_one_that_is_fetched_is_verified(
    hub: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def wrong(url: str, place: str, **more: object) -> None:
        asked.append(url)
        Path(place).write_bytes(b"something else")

    monkeypatch.setattr(torch.hub, "download_url_to_file", wrong)
    for _ in range(2):
        with pytest.raises(DataError, match="not the published file"):
            inception()
    assert len(asked) == 1


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.mkdir.__get__(self.mark), ())


def test_a_file_with_code_in_it_is_refused_by_its_hash_and_would_not_run_with_the_right_one(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mark = tmp_path / "ran"
    hub.mkdir(parents=True)
    torch.save({"fc.weight": Payload(mark)}, hub / NAME)
    torch.load(hub / NAME, weights_only=False)
    mark.rmdir()

    with pytest.raises(DataError, match="not the published file"):
        inception()
    digest = hashlib.sha256((hub / NAME).read_bytes()).hexdigest()
    monkeypatch.setattr(module, "SHA256", digest)
    with pytest.raises(DataError, match="cannot be loaded safely"):
        inception()
    assert not mark.exists()
