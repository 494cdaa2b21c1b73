"""Generated samples of several critic updates in one pass: the same samples, run and resume."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from conftest import exhaustive_beyond, leaves
from omegaconf import open_dict
from torch import Tensor

from wgan_cli.acceleration.grouped import GROUP
from wgan_cli.build import build_dataset, build_trainer, complete
from wgan_cli.commands.composition import Composer
from wgan_cli.config import fill, validate
from wgan_cli.machine import choose_machine
from wgan_cli.randomness import Draws, Stream
from wgan_cli.training.trainer import Trainer

CPU = torch.device("cpu")
# Two groups, of which the second is short.
UPDATES = GROUP + 2
WORDS = ["batch_size=8", "metrics=[]", f"n_critic={UPDATES}", "model.generator.width=32"]

pytestmark = pytest.mark.usefixtures("one_seeded_thread", "here")


class CutError(Exception):
    """The end of a step amid its critic phase."""


class Heard:
    """What a trainer's critic updates are given, and how many batches a joint pass makes.

    Critic update `end`, counted from 0, does not come about.
    """

    def __init__(self, trainer: Trainer, end: int | None = None) -> None:
        self.given: list[Tensor | None] = []
        self.passes: list[int] = []
        update, fakes = trainer.updates.critic_update, trainer.updates.fakes

        def updating(
            real: Tensor, latent: Tensor | None, draws: Draws, labels: Any, fake: Tensor | None
        ) -> Tensor:
            if len(self.given) == end:
                raise CutError
            assert (latent is None) == (fake is not None)
            self.given.append(fake)
            return update(real, latent, draws, labels, fake)

        def making(latents: list[Tensor]) -> tuple[Tensor, ...]:
            self.passes.append(len(latents))
            return fakes(latents)

        trainer.updates.critic_update = updating  # type: ignore[method-assign]
        trainer.updates.fakes = making  # type: ignore[method-assign, assignment]


def trainer_of(*words: str) -> Trainer:
    config = Composer().compose([*WORDS, *words])
    with open_dict(config):
        del config["hydra"]
    filled, _ = fill(validate(config))
    dataset = build_dataset(filled)
    config = complete(filled, choose_machine(filled, CPU), dataset)
    return build_trainer(config, dataset, CPU)


def test_the_samples_are_those_of_every_updates_own_latents() -> None:
    trainer = trainer_of("precision=bf16")
    before = copy.deepcopy(trainer.updates.trained_generator.forward_network)
    heard = Heard(trainer)
    for step in (0, 1):
        trainer.train_step()
        assert heard.passes == [GROUP, 2] * (step + 1)
        for inner, fake in enumerate(heard.given[step * UPDATES :]):
            latent = Draws(0, Stream.CRITIC_NOISE, step, inner).normal((8, trainer.latent_dim), CPU)
            with torch.no_grad():
                alone = before(latent.bfloat16())
            assert fake is not None
            assert fake.shape == alone.shape
            assert not fake.requires_grad
            assert torch.allclose(fake.float(), alone.float(), atol=0.02)
        before = copy.deepcopy(trainer.updates.trained_generator.forward_network)


@pytest.mark.parametrize(
    "words",
    [
        ["precision=fp32"],
        ["precision=bf16", "n_critic=1"],
        ["precision=bf16", "conditional=true"],
        # BatchNorm's statistics are those of one batch.
        ["precision=bf16", "model=dcgan", "model.generator.norm=batch"],
    ],
    ids=["fp32", "one update", "of classes", "BatchNorm"],
)
def test_each_update_makes_its_own_where_the_pass_would_be_another(words: list[str]) -> None:
    trainer = trainer_of(*words)
    heard = Heard(trainer)
    trainer.train_step()
    assert heard.passes == []
    assert set(heard.given) == {None}


@pytest.mark.parametrize(("batches", "passes"), [(9, [8, 2]), (4, [4, 4, 2]), (0.5, [1] * 10)])
def test_no_more_is_made_at_once_than_there_is_room_for(
    batches: float, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wgan_cli.acceleration.grouped.MAX_NUMBERS", int(batches * 8 * 64))
    trainer = trainer_of("precision=bf16")
    heard = Heard(trainer)
    trainer.train_step()
    assert heard.passes == passes


def test_compiled_passes_meet_one_size_of_batch() -> None:
    trainer = trainer_of("precision=bf16")
    assert trainer.updates.joins_fakes
    trainer.updates.trained_generator.forward_network.compile()
    assert not trainer.updates.joins_fakes


@pytest.mark.parametrize(
    "end", exhaustive_beyond([1, GROUP + 1], [1, GROUP - 1, GROUP, GROUP + 1, UPDATES + 3])
)
def test_a_step_cut_off_amid_a_group_goes_on_bit_for_bit(end: int) -> None:
    whole = trainer_of("precision=bf16")
    for _ in range(2):
        whole.train_step()
    cut = trainer_of("precision=bf16")
    Heard(cut, end)
    with pytest.raises(CutError):
        for _ in range(2):
            cut.train_step()
    saved = copy.deepcopy(cut.state_dict())
    assert (saved["step"], saved["inner"]) == divmod(end, UPDATES)
    resumed = trainer_of("precision=bf16")
    resumed.load_state_dict(saved)
    while resumed.step < 2:
        resumed.train_step()
    one, other = leaves(whole.state_dict()), leaves(resumed.state_dict())
    assert one.keys() == other.keys()
    for key, value in one.items():
        same = torch.equal(value, other[key]) if isinstance(value, Tensor) else value == other[key]
        assert same, key
