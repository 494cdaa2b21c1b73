"""CelebA: 202,599 faces, aligned (Liu et al., arXiv 1411.7766)."""

from __future__ import annotations

import numpy as np

from wgan_cli.data.dataset import Dataset
from wgan_cli.data.decoding import COLOUR
from wgan_cli.data.encoded import Faults, Files, ImagePart
from wgan_cli.data.streaming import encoded_images
from wgan_cli.data.torchvision_files import answered

# In list_eval_partition.txt; 1 is a validation part, which is left alone.
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
    """The aligned faces, their middle squares as `size` x `size`, in colour, without classes.

    Held out are 10,000 of the 19,962 of the test part. Raises `DataError`.
    """
    with answered(name, root, download) as (datasets, base):
        # Without targets; torchvision is asked to fetch the files and to check them.
        datasets.CelebA(str(base), split="all", target_type=[], download=download)
        folder = base / datasets.CelebA.base_folder
        words = (folder / "list_eval_partition.txt").read_text().split()
    files, part = words[::2], np.array(words[1::2])
    source = Files(folder / "img_align_celeba", files)
    faults = Faults(name, len(files), corrupt_limit)
    training, held_out = (
        ImagePart(source, np.flatnonzero(part == kind), size, COLOUR, faults.most)
        for kind in (TRAINING, HELD_OUT)
    )
    return encoded_images(
        name, training, held_out, faults, flip=flip, in_memory=in_memory, workers=workers
    )
