"""CelebA: 202,599 aligned faces (Liu et al., arXiv 1411.7766)."""

from __future__ import annotations

import numpy as np

from wgan_cli.data.dataset import Dataset
from wgan_cli.data.encoded import COLOUR, Faults, FileSource, ImagePart
from wgan_cli.data.images import refuse_special_files, torchvision_files
from wgan_cli.data.streaming import encoded_images
from wgan_cli.untrusted_files import read_text

# Codes in list_eval_partition.txt. The validation part, 1, is not used.
TRAINING, HELD_OUT = "0", "2"


def celeba(
    name: str = "celeba",
    root: str = "data",
    download: bool = True,
    size: int = 64,
    flip: bool = True,
    in_memory: bool | None = None,
    workers: int | None = None,
    corrupt_limit: float = 0.01,
) -> Dataset:
    """Return the aligned faces in colour, cropped to a centred square and resized, without classes.

    10,000 of the 19,962 test images are held out. Raises `DataError` for missing or damaged files.
    """
    with torchvision_files(name, root, download) as (datasets, base):
        refuse_special_files(base / datasets.CelebA.base_folder)
        # Use torchvision only to fetch and check the files; its targets are not needed.
        datasets.CelebA(str(base), split="all", target_type=[], download=download)
        folder = base / datasets.CelebA.base_folder
        columns = read_text(folder / "list_eval_partition.txt").split()
    files, part = columns[::2], np.array(columns[1::2])
    source = FileSource(folder / "img_align_celeba", files)
    faults = Faults(name, len(files), corrupt_limit)
    training, held_out = (
        ImagePart(source, np.flatnonzero(part == kind), size, COLOUR, faults)
        for kind in (TRAINING, HELD_OUT)
    )
    return encoded_images(training, held_out, flip=flip, in_memory=in_memory, workers=workers)
