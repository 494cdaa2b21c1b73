"""The Inception network of published FID, KID and Inception Score, from a verified weights file."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from wgan_cli.errors import DataError

URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
# The file's name ends in the first eight digits of this.
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_FEATURES = ["2048", "logits_unbiased"]
# At 299x299 the first layers take 6 MB and more for each image.
_AT_ONCE = 32


class Inception(nn.Module):
    """torch-fidelity's Inception v3, converted from TensorFlow's of 2015-12-05.

    Images (n, 1 or 3, H, W) in [-1, 1] to features (n, 2048) and logits (n, 1008) without the last
    layer's bias. They are rounded to the 256 levels of a stored image, and resized to 299x299 as
    TensorFlow 1 did: other resizings give other scores (arXiv 2104.11222).
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # The constructor unpickles whatever it is given, code included: it gets these tensors, in
        # memory, and never a file.
        stored = io.BytesIO()
        torch.save(weights, stored)
        stored.seek(0)
        self.network = FeatureExtractorInceptionV3(
            "inception-v3-compat", _FEATURES, feature_extractor_weights_path=stored
        )

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits, float32, on the images' device."""
        if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
            raise ValueError(
                f"images of shape (n, 1 or 3, H, W) are needed, not {list(images.shape)}"
            )
        if not images.isfinite().all():
            raise ValueError("the images hold NaN or infinite values")
        levels = images.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)
        colours = levels.expand(-1, 3, -1, -1)
        features, logits = zip(
            *(self.network(some) for some in colours.split(_AT_ONCE)), strict=True
        )
        return torch.cat(features), torch.cat(logits)


def weights_path() -> Path:
    """Where the weights file belongs: torch hub's folder, which torch-fidelity uses too."""
    return Path(torch.hub.get_dir()) / "checkpoints" / URL.rsplit("/", 1)[1]


def available() -> bool:
    """Whether the published file is there, so that nothing has to be fetched."""
    try:
        stored = weights_path().read_bytes()
    except OSError:
        return False
    return hashlib.sha256(stored).hexdigest() == SHA256


def inception(fetch: bool) -> Inception:
    """The network, on the CPU, from `weights_path()`; with `fetch` a missing file is downloaded.

    Raises DataError where the file is missing, cannot be fetched, or is not the published one.
    """
    path = weights_path()
    if not path.is_file():
        if not fetch:
            raise DataError(_missing(path, "is missing"))
        _download(path)
    return Inception(_verified(path))


def _download(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            URL, str(path), hash_prefix=SHA256, progress=sys.stderr.isatty()
        )
    except (OSError, RuntimeError) as error:
        reason = str(error).strip() or type(error).__name__
        raise DataError(_missing(path, f"could not be downloaded ({reason})")) from error


def _verified(path: Path) -> dict[str, Tensor]:
    """The file's tensors, if it is byte for byte the published one."""
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise DataError(_missing(path, f"cannot be read ({error.strerror})")) from error
    # Of the bytes that are loaded, so that nothing can change them in between.
    if hashlib.sha256(stored).hexdigest() != SHA256:
        raise DataError(
            f"{path} is not the published file of Inception's weights, or is damaged: delete it,"
            f" and download it again from {URL}, or take metrics/fid_classifier, which needs no"
            " download."
        )
    try:
        weights = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be loaded safely: {reason}") from error
    return dict(weights)


def _missing(path: Path, what: str) -> str:
    return (
        f"The file of Inception's weights {what}: put {URL} (91 MB) at {path}."
        " Or take metrics/fid_classifier, which needs no download."
    )
