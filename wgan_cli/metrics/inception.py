"""The Inception network that published FID, KID and Inception scores use, with verified weights."""

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
# The first eight digits are part of the file's name.
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_FEATURES = ["2048", "logits_unbiased"]
# Batch size: at 299x299, the first layers need 6 MB and more for each image.
_BATCH = 32


class Inception(nn.Module):
    """torch-fidelity's Inception v3, converted from the TensorFlow network of 2015-12-05.

    Maps images (n, 1 or 3, H, W) in [-1, 1] to features (n, 2048) and to logits (n, 1008) without
    the last layer's bias. Images are first rounded to 8 bits and resized to 299x299 as in
    TensorFlow 1, because other resizing methods change the scores (arXiv 2104.11222).
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # The constructor unpickles its argument, which can execute code. So pass the verified
        # tensors in memory, not a file.
        stored = io.BytesIO()
        torch.save(weights, stored)
        stored.seek(0)
        self.network = FeatureExtractorInceptionV3(
            "inception-v3-compat", _FEATURES, feature_extractor_weights_path=stored
        )

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return float32 features and logits on the device of the images."""
        if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
            raise ValueError(
                f"images of shape (n, 1 or 3, H, W) are needed, not {list(images.shape)}"
            )
        if not images.isfinite().all():
            raise ValueError("the images hold NaN or infinite values")
        levels = images.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)
        colours = levels.expand(-1, 3, -1, -1)
        features, logits = zip(*(self.network(part) for part in colours.split(_BATCH)), strict=True)
        return torch.cat(features), torch.cat(logits)


def weights_path() -> Path:
    """Return the path of the weights file in the torch hub folder. torch-fidelity uses it too."""
    return Path(torch.hub.get_dir()) / "checkpoints" / URL.rsplit("/", 1)[1]


def available() -> bool:
    """Return whether the published weights file is on disk and undamaged."""
    try:
        stored = weights_path().read_bytes()
    except OSError:
        return False
    return hashlib.sha256(stored).hexdigest() == SHA256


def inception() -> Inception:
    """Load the network from `weights_path()` to the CPU. Download the file if it is missing.

    Raises DataError if the file cannot be downloaded or is not the published one.
    """
    path = weights_path()
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                URL, str(path), hash_prefix=SHA256, progress=sys.stderr.isatty()
            )
        except (OSError, RuntimeError) as error:
            reason = str(error).strip() or type(error).__name__
            raise DataError(_missing(path, f"could not be downloaded ({reason})")) from error
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise DataError(_missing(path, f"cannot be read ({error.strerror})")) from error
    # Check the same bytes that are loaded below, so that the file cannot change in between.
    if hashlib.sha256(stored).hexdigest() != SHA256:
        raise DataError(
            f"{path} is not the published file of Inception's weights, or is damaged: delete it"
            f" and download it again from {URL}, or use metrics/fid_classifier, which needs no"
            " download."
        )
    try:
        weights = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be loaded safely: {reason}") from error
    return Inception(dict(weights))


def _missing(path: Path, problem: str) -> str:
    return (
        f"The file of Inception's weights {problem}: put {URL} (91 MB) at {path}."
        " Or use metrics/fid_classifier, which needs no download."
    )
