"""The files that trained classifiers are cached in: keys, checksums, reading and writing."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from wgan_cli.errors import DiskError
from wgan_cli.files import disk_error, write_atomically


def key_of(recipe: str, *tensors: Tensor) -> str:
    """Return a hash of the data and of `recipe`, the text that says how to train on them."""
    digest = hashlib.sha256(recipe.encode())
    for tensor in tensors:
        _add(digest, tensor)
    return digest.hexdigest()


def read_weights(
    path: Path, key: str, network: nn.Module, log: Callable[[str], None]
) -> float | None:
    """Load the file into the network and return the accuracy; None if there is no valid file."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        weights, accuracy = stored["weights"], stored["accuracy"]
        if stored["sha256"] != _checksum(key, weights, accuracy):
            raise ValueError("the checksum does not match")
        network.load_state_dict(weights)
    except (FileNotFoundError, NotADirectoryError):
        return None
    # In a cache that users share, a file may be another user's alone.
    except OSError as error:
        reason = error.strerror or error
        log(f"metrics: {path} cannot be read: {reason}. The classifier is trained again.")
        return None
    # A damaged file, or a file of another program, can raise many kinds of errors.
    except Exception:
        log(
            f"metrics: {path} is damaged or not a file of this program; the classifier is trained"
            " again."
        )
        return None
    return float(accuracy)


def write_weights(path: Path | None, key: str, network: nn.Module, accuracy: float) -> str:
    """Cache the network. Return a clause for the log: the path, or why there is no such file."""
    if path is None:
        return "it is not cached, as this user has no home folder: set XDG_CACHE_HOME to a folder."
    weights = dict(network.state_dict())
    stored = io.BytesIO()
    checksum = _checksum(key, weights, accuracy)
    torch.save({"weights": weights, "accuracy": accuracy, "sha256": checksum}, stored)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Write atomically: another process may write or read the same file.
        write_atomically(path, stored.getbuffer(), durable=False)
    except OSError as error:
        return f"it is not cached: {disk_error(error, path.parent, done='made')}"
    except DiskError as error:
        return f"it is not cached: {error}"
    return f"it is cached in {path}."


def _add(digest: hashlib._Hash, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().flatten().contiguous().numpy().data)


def _checksum(key: str, weights: dict[str, Tensor], accuracy: float) -> str:
    digest = hashlib.sha256(f"{key} {accuracy!r}".encode())
    for name in sorted(weights):
        digest.update(name.encode())
        _add(digest, weights[name])
    return digest.hexdigest()
