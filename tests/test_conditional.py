"""Labels on their way through a run: to both networks, the evaluation and the pictures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Command, exhaustive_beyond, metrics_of, status_of
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

from wgan_cli.build import build_trainer, complete
from wgan_cli.commands.composition import Composer
from wgan_cli.commands.evaluate import run as evaluate
from wgan_cli.commands.train import run
from wgan_cli.config import fill, validate
from wgan_cli.constraints import Constraint, Unconstrained
from wgan_cli.data.dataset import Labels, TensorDataset
from wgan_cli.evaluation.comparison import Comparison
from wgan_cli.evaluation.samples import Reference, generated
from wgan_cli.losses import Wasserstein
from wgan_cli.machine import choose_machine
from wgan_cli.pictures import grid
from wgan_cli.randomness import Draws, Stream
from wgan_cli.training.class_sampler import ClassSampler
from wgan_cli.training.updates import Updates

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)
LATENT = 3
DRAWS = Draws(0, Stream.PENALTY)


class Drawing(nn.Module):
    """A generator whose images are all of one brightness, that of their class."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.asked: list[Tensor] = []

    def forward(self, latent: Tensor, labels: Tensor) -> Tensor:
        self.asked.append(labels)
        return (self.gain * labels.float() / 10).reshape(-1, 1, 1, 1).expand(-1, *SHAPE).clone()


class Judging(nn.Module):
    """A critic that scores an image's mean times its class."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        self.seen.append((images, labels))
        return self.gain * images.flatten(1).mean(dim=1) * labels


class Noting(Constraint):
    def __init__(self) -> None:
        self.labels: Tensor | None = None

    def penalty(
        self, critic: nn.Module, real: Tensor, fake: Tensor, draws: Draws, labels: Tensor | None
    ) -> None:
        self.labels = labels


def updates_of(constraint: Constraint | None = None) -> Updates:
    generator, critic = Drawing(), Judging()
    return Updates(
        generator,
        critic,
        torch.optim.SGD(generator.parameters(), lr=0.0),
        torch.optim.SGD(critic.parameters(), lr=0.0),
        Wasserstein(),
        constraint or Unconstrained(),
    )


def test_the_critic_sees_fakes_of_the_real_samples_classes():
    constraint = Noting()
    updates = updates_of(constraint)
    labels = torch.tensor([0, 3, 1, 7])
    updates.critic_update(torch.rand(4, *SHAPE), torch.zeros(4, LATENT), DRAWS, labels)
    assert torch.equal(updates.generator.asked[0], labels)
    (_, given_real), (images, given_fake) = updates.critic.seen
    assert torch.equal(given_real, labels)
    assert torch.equal(given_fake, labels)
    torch.testing.assert_close(images[:, 0, 0, 0], labels / 10)
    assert torch.equal(constraint.labels, labels)


def test_the_estimate_is_of_the_pairs_of_sample_and_class():
    labels, real = torch.tensor([0, 3, 1, 7]), torch.rand(4, *SHAPE)
    terms = updates_of().critic_update(real, torch.zeros(4, LATENT), DRAWS, labels)
    expected = (real.flatten(1).mean(dim=1) * labels - labels * labels / 10).mean()
    torch.testing.assert_close(terms[0], expected)


def test_the_generator_is_asked_for_classes_and_judged_by_them():
    updates = updates_of()
    labels = torch.tensor([2, 5])
    terms = updates.generator_update(torch.zeros(2, LATENT), labels)
    assert torch.equal(updates.generator.asked[0], labels)
    torch.testing.assert_close(terms[0], -(labels * labels / 10).mean())


def test_classes_are_drawn_as_often_as_the_data_have_them():
    labels = torch.tensor([0] * 60 + [2] * 30 + [3] * 10)
    classes = ClassSampler(labels, 5, CPU)
    drawn = torch.cat([classes.draw(1000, Draws(0, Stream.CLASSES, step)) for step in range(20)])
    shares = drawn.bincount(minlength=5) / len(drawn)
    torch.testing.assert_close(shares, torch.tensor([0.6, 0, 0.3, 0.1, 0]), atol=0.01, rtol=0)
    again = classes.draw(1000, Draws(0, Stream.CLASSES, 3))
    assert torch.equal(again, drawn[3000:4000])
    assert classes.rows(3, 2).tolist() == [0, 0, 1, 1, 2, 2]
    assert classes.rows(20, 1).tolist() == [0, 1, 2, 3, 4]


def labelled() -> TensorDataset:
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (1400, *SHAPE), dtype=np.uint8)
    )
    labels = torch.arange(1400) % 7
    return TensorDataset("noise", images[:700], images[700:], Labels(labels[:700], labels[700:]))


def test_an_evaluation_compares_samples_of_the_held_out_samples_classes():
    dataset = labelled()
    reference = Reference(dataset, CPU, Path(), conditional=True)
    generator, critic = Drawing(), Judging()
    shown = generated(generator, LATENT, reference, seed=0)
    comparison = Comparison(reference, shown, critic, seed=0)
    real, labels = reference.real.eval_set, reference.real.labels
    assert labels is not None
    assert len(labels) == len(real) == 350
    for image, label in zip(real[:20], labels[:20], strict=True):
        same = (dataset.held_out.float() / 127.5 - 1 == image).flatten(1).all(dim=1)
        assert int(dataset.labels.held_out[same]) == label
    torch.testing.assert_close(shown.eval_set[:, 0, 0, 0], labels / 10)
    expected = (real.flatten(1).mean(dim=1) - labels / 10) * labels
    assert comparison.estimate == pytest.approx(float(expected.mean()), abs=1e-5)
    # The slope of label * mean over 64 pixels.
    assert comparison.steepest_slope == pytest.approx(6 / 8, rel=1e-5)
    many = torch.cat(list(shown.feature_batches()))
    assert reference.feature_labels is not None
    torch.testing.assert_close(many[:, 0, 0, 0], reference.feature_labels / 10)


def test_other_runs_know_no_classes():
    reference = Reference(labelled(), CPU, Path())
    assert reference.real.labels is None
    assert reference.feature_labels is None


WORDS = [*TINY, "conditional=true", "log_every=1", "eval_samples=8"]


def test_a_conditional_run_evaluates_resumes_and_samples_a_row_a_class(
    wgan: Command, tmp_path: Path
):
    done = wgan(*WORDS, "hydra.run.dir=whole", "steps=4", "ema=0.5")
    assert done.returncode == 0, done.stderr
    assert wgan(*WORDS, "hydra.run.dir=cut", "steps=2", "ema=0.5").returncode == 0
    assert wgan("resume=cut", "steps=4").returncode == 0
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert status_of(cut)["state"] == "finished"
    one, other = (
        torch.load(folder / "checkpoints/step_00000004.pt", weights_only=True)
        for folder in (whole, cut)
    )
    assert one["classes"] == 10
    for network in ("generator", "generator_ema", "critic"):
        assert all(torch.equal(one[network][k], other[network][k]) for k in one[network])
    last = metrics_of(whole)[-1]
    assert all(math.isfinite(value) for value in last.values())
    assert "wasserstein/exact_raw" in last

    pixels = np.asarray(Image.open(whole / "samples" / "step_00000004.png"))
    assert pixels.shape == grid(torch.zeros(80, *SHAPE, dtype=torch.uint8)).shape

    sampled = wgan("whole", "--n", "24", "--out", "all.npy", command="wgan-sample")
    assert sampled.returncode == 0, sampled.stderr
    alone = wgan("whole", "--n", "24", "--class", "1", "--out", "one.npy", command="wgan-sample")
    assert alone.returncode == 0, alone.stderr
    every, single = np.load(tmp_path / "all.npy"), np.load(tmp_path / "one.npy")
    # Of the same noise: the second row of eight is of class 1 in both.
    same = (every == single).reshape(24, -1).all(axis=1)
    assert same.tolist() == [False] * 8 + [True] * 8 + [False] * 8
    pictured = wgan("whole", command="wgan-sample")
    assert pictured.stdout.startswith("80 samples: whole/samples/n80_seed0.png")
    wrong = wgan("whole", "--class", "10", command="wgan-sample")
    assert wrong.returncode == 2
    assert "0 to 9" in wrong.stderr
    measured = wgan("whole", "--metrics", "exact,lipschitz", "--n", "8", command="wgan-eval")
    assert measured.returncode == 0, measured.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dataset=gaussians_ring"], "needs samples with labels"),
        (["model=lipschitz_mlp", "constraint=none"], "takes no classes"),
    ],
)
def test_what_has_no_classes_is_refused(
    words: list[str], said: str, here: Path, capsys: pytest.CaptureFixture[str]
):
    assert run([*WORDS, *words, "hydra.run.dir=out"]) == 2
    assert said in capsys.readouterr().err
    assert not (here / "out").exists()


def test_an_unconditional_run_has_no_class_to_sample(wgan: Command):
    assert wgan(*TINY, "hydra.run.dir=plain", "eval_samples=8").returncode == 0
    done = wgan("plain", "--class", "1", command="wgan-sample")
    assert done.returncode == 2
    assert "not conditional" in done.stderr


def test_labelled_points_of_the_plane_are_drawn_too(here: Path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    points = rng.standard_normal((200, 2)).astype(np.float32) + 4 * labels[:, None]
    np.savez(here / "points.npz", x=points.astype(np.float32), y=labels)
    words = ["dataset=array", "dataset.path=points.npz", "ema=0.5", "sample_every=1"]
    assert run([*WORDS, *words, "hydra.run.dir=out"]) == 0
    assert sorted(p.name for p in (here / "out" / "samples").iterdir()) == [
        f"step_{step:08d}.png" for step in range(3)
    ]


def test_data_with_another_number_of_classes_are_not_evaluated(
    here: Path, capsys: pytest.CaptureFixture[str]
):
    rng = np.random.default_rng(0)
    points = rng.standard_normal((200, 2)).astype(np.float32)
    np.savez(here / "points.npz", x=points, y=np.arange(200) % 2)
    words = ["dataset=array", "dataset.path=points.npz"]
    assert run([*WORDS, *words, "hydra.run.dir=out"]) == 0
    np.savez(here / "points.npz", x=points, y=np.arange(200) % 3)
    assert evaluate(["out", "--metrics", "exact"]) == 4
    assert "have 2 classes, its data set has 3" in capsys.readouterr().err


def test_many_samples_are_of_all_classes_where_the_held_out_part_is_sorted():
    images = torch.randint(0, 256, (2000, *SHAPE), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(1000) // 100
    dataset = TensorDataset(
        "sorted", images[:1000].byte(), images[1000:].byte(), Labels(labels, labels)
    )
    reference = Reference(dataset, CPU, Path(), feature_samples=200, conditional=True)
    assert reference.feature_labels is not None
    assert len(reference.feature_labels.unique()) == 10
    real = torch.cat(list(reference.real.feature_batches()))
    expected = dataset.held_out.float() / 127.5 - 1
    for image, label in zip(real[::20], reference.feature_labels[::20], strict=True):
        same = (expected == image).flatten(1).all(dim=1)
        assert int(labels[same]) == label


def test_classes_are_drawn_as_the_training_part_has_them_and_afresh_in_each_update():
    # In bf16, a copy of the generator would be called instead.
    words = [*WORDS, "metrics=[wasserstein/exact]", "precision=fp32"]
    plain = OmegaConf.to_container(Composer().compose(words))
    del plain["hydra"]
    filled, _ = fill(validate(plain))
    images = torch.randint(0, 256, (400, *SHAPE), generator=torch.Generator().manual_seed(0))
    labels = Labels(train=torch.arange(200) % 2, held_out=torch.full((200,), 2))
    dataset = TensorDataset("halves", images[:200].byte(), images[200:].byte(), labels)
    config = complete(filled, choose_machine(filled, CPU), dataset)
    trainer = build_trainer(config, dataset, CPU)
    asked: list[Tensor] = []
    network = trainer.updates.trained_generator.forward_network
    network.register_forward_pre_hook(lambda _, args: asked.append(args[1]))
    for step in range(3):
        trainer.training_step.begin(step, step + 1)
        trainer.training_step.start()
        trainer.training_step.generator_update()
    assert torch.cat(asked).unique().tolist() == [0, 1]
    of_training = ClassSampler(labels.train, 3, CPU)
    for step, classes in enumerate(asked):
        expected = of_training.draw(config.batch_size, Draws(config.seed, Stream.CLASSES, step))
        assert torch.equal(classes, expected)
    assert not torch.equal(asked[0], asked[1])


class SmallMnist:
    def __init__(self, root: str, train: bool, download: bool) -> None:
        rng = torch.Generator().manual_seed(int(train))
        self.data = torch.randint(0, 256, (96 if train else 48, 28, 28), generator=rng).byte()
        self.targets = torch.arange(len(self.data)) % 10


@pytest.mark.parametrize("model", exhaustive_beyond(["dcgan"], ["dcgan", "resnet"]))
def test_conditional_convolutions_train_and_resume(
    model: str, here: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("torchvision.datasets.MNIST", SmallMnist)
    words = [*WORDS, "dataset=mnist", f"model={model}", "model.generator.norm=batch", "ema=0.5"]
    words += ["model.generator.width=2", "model.critic.width=2", "metrics=[wasserstein/exact]"]
    assert run([*words, "steps=4", "hydra.run.dir=whole"]) == 0
    assert run([*words, "steps=2", "hydra.run.dir=cut"]) == 0
    assert run(["resume=cut", "steps=4"]) == 0
    whole, resumed, early = (
        torch.load(here / folder / f"checkpoints/step_0000000{step}.pt", weights_only=True)
        for folder, step in (("whole", 4), ("cut", 4), ("cut", 2))
    )
    for network in ("generator", "generator_ema", "critic"):
        for name, value in whole[network].items():
            assert value.isfinite().all()
            assert torch.equal(value, resumed[network][name])
        of_classes = [name for name, value in whole[network].items() if value.shape[:1] == (10,)]
        assert of_classes
        for name in of_classes:
            assert not torch.equal(whole[network][name], early[network][name])
