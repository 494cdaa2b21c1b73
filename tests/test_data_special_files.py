"""Pipes in place of data files: they are refused at once, and never waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import TINY

from wgan_cli.commands.train import run

# Maps the words that name a data set to the path of the pipe, and of the folders beside it.
PIPES = {
    "array": (["dataset=array", "dataset.path=data/array.npz"], "data/array.npz"),
    "mnist": (["dataset=mnist"], "data/MNIST/raw/train-images-idx3-ubyte"),
    "mnist's archive": (["dataset=mnist"], "data/MNIST/raw/train-images-idx3-ubyte.gz"),
    "emnist": (["dataset=emnist"], "data/EMNIST/raw/gzip.zip"),
    "cifar10": (["dataset=cifar10"], "data/cifar-10-batches-py/data_batch_1"),
    "cifar10's archive": (["dataset=cifar10"], "data/cifar-10-python.tar.gz"),
    "svhn": (["dataset=svhn"], "data/train_32x32.mat"),
    "stl10": (["dataset=stl10"], "data/stl10_binary/train_X.bin"),
    "celeba": (["dataset=celeba"], "data/celeba/list_eval_partition.txt"),
    "lsun": (["dataset=lsun"], "data/bedroom_train_lmdb/data.mdb"),
}


@pytest.mark.parametrize("what", PIPES)
def test_a_pipe_is_no_data_file(what: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, name = PIPES[what]
    pipe = here / name
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    if what == "lsun":
        (here / "data" / "bedroom_val_lmdb").mkdir()
    download = [] if what in ("array", "lsun") else ["dataset.download=false"]
    model = [] if what == "array" else ["model=dcgan"]
    assert run([*(w for w in TINY if "width" not in w), *words, *download, *model]) == 3
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "it is not a regular file" in said
    assert not (here / "outputs").exists()


def test_a_link_to_a_pipe_is_no_image(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "images").mkdir()
    os.mkfifo(here / "pipe")
    (here / "images" / "one.png").symlink_to(here / "pipe")
    words = ["dataset=image_folder", "dataset.root=images", "dataset.size=8", "model=dcgan"]
    assert run([*(w for w in TINY if "width" not in w), *words]) == 3
    assert "holds no image" in capsys.readouterr().err
