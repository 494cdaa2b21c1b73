"""Steps that are recorded and replayed do what they do kernel by kernel.

`Again` stands for a CUDA graph: it runs the recorded step once more.
"""

from __future__ import annotations

import copy
import gc
import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import exhaustive_beyond
from graphed_trainers import (
    BATCH,
    CPU,
    OPTIMIZERS,
    RATE,
    Again,
    Setup,
    assert_same,
    state_of,
    train,
)
from torch import Tensor, nn

from wgan_cli.acceleration.capturable import count_on_host
from wgan_cli.acceleration.cuda_graphs import CudaGraph
from wgan_cli.acceleration.step_graphs import WARM_UP, StepGraphs
from wgan_cli.constraints import Constraint
from wgan_cli.errors import DivergedError, PreemptedError
from wgan_cli.losses import Wasserstein
from wgan_cli.randomness import Draws
from wgan_cli.training.callbacks.protocol import Callback, Point
from wgan_cli.training.rollback import Rollback, RollbackRecord
from wgan_cli.training.schedule import CriticSchedule, LearningRateDecay
from wgan_cli.training.trainer import Trainer

STEPS = WARM_UP + 5
# Five updates in steps 0, 1, 4, 8 and 12, otherwise two.
WARMING = CriticSchedule(2, 2, 5, 4)
ALL = {
    "ema": 0.9,
    "conditional": True,
    "flip": True,
    "schedule": WARMING,
    "steps": 13,
}
NAN = float("nan")


@pytest.fixture(autouse=True)
def usual_level(caplog: pytest.LogCaptureFixture) -> None:
    """Warnings only, whatever level an earlier test in this process has left."""
    caplog.set_level(logging.WARNING, "wgan_cli")


pytestmark = pytest.mark.usefixtures("one_seeded_thread")


@pytest.fixture(autouse=True)
def counted() -> None:
    Again.made = Again.replays = 0


class Impossible(Again):
    """Cannot be recorded."""

    def record(self, step: Callable[[], None], generator: torch.Generator) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


class Invalid(Again):
    """Cannot be recorded, and torch says only at the end that something went wrong."""

    def record(self, step: Callable[[], None], generator: torch.Generator) -> None:
        try:
            raise RuntimeError("the cause")
        except RuntimeError:
            raise RuntimeError("capture was invalidated")  # noqa: B904


class Waits(Again):
    """Cannot be rehearsed: the step has done something, then it waits for the device."""

    def rehearse(self, step: Callable[[], None]) -> None:
        step()
        raise RuntimeError("called a synchronizing CUDA operation")


class Twice(Again):
    """Computes something else."""

    def replay(self) -> None:
        self.step()
        self.step()


class Still(Again):
    """Moves nothing."""

    def replay(self) -> None:
        """Nothing."""


class Full(Again):
    """Needs more memory than there is."""

    def record(self, step: Callable[[], None], generator: torch.Generator) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize(
    ("model", "constraint", "optimizer", "bf16", "more"),
    exhaustive_beyond(
        [
            ("mlp", "clip", "rmsprop", False, False),
            ("mlp", "penalty", "adam", True, True),
            ("mlp", "norm", "sgd", True, False),
            ("dcgan", "clip", "adam", True, True),
            ("dcgan", "penalty", "rmsprop", False, True),
        ],
        itertools.product(
            ["mlp", "dcgan"],
            ["clip", "penalty", "norm"],
            ["rmsprop", "sgd", "adam"],
            [False, True],
            [False, True],
        ),
    ),
)
def test_steps_under_graphs_are_the_steps_themselves(
    model: str, constraint: str, optimizer: str, bf16: bool, more: bool
) -> None:
    setup = Setup(model, constraint, optimizer, bf16)
    if more:
        setup = replace(setup, **ALL)
    eager, graphed = setup.trainer(), setup.trainer(Again)
    train(eager, setup.steps)
    train(graphed, setup.steps)
    assert_same(eager, graphed)
    # Without a warm-up: step 3 is recorded, and steps 4 to 7 are replayed.
    assert (Again.made, Again.replays) == ((2, 8) if more else (1, 4))


@pytest.mark.parametrize("more", [{"ema": 0.5}, {"conditional": True}, {"flip": True}])
@pytest.mark.parametrize("relativistic", [False, True])
def test_so_are_those_of(more: dict[str, Any], relativistic: bool) -> None:
    class Relative(Wasserstein):
        def generator(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
            base = super().generator(fake_scores)
            return base if real_scores is None else base + real_scores.square().mean()

    setup = Setup(loss=Relative(), relativistic=relativistic, **more)
    eager, graphed = setup.trainer(), setup.trainer(Again)
    train(eager, STEPS)
    train(graphed, STEPS)
    assert_same(eager, graphed)
    assert Again.replays


def test_each_number_of_critic_updates_has_a_graph_and_the_log_names_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "wgan_cli"):
        train(Setup(schedule=CriticSchedule(1, 0, 3, 2)).trainer(Again), 9)
    assert [record.getMessage() for record in caplog.records] == [
        f"CUDA graph: a step with {updates} is replayed."
        for updates in ("1 critic update", "3 critic updates")
    ]


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (Impossible, "operation not permitted when stream is capturing"),
        (Invalid, "the cause"),
        (Waits, "called a synchronizing CUDA operation"),
        (Twice, "its replay computes something else"),
        (Still, "its replay computes something else"),
        (Full, "a graph needs more memory than there is"),
    ],
)
@pytest.mark.parametrize("more", [False, True])
def test_what_cannot_be_replayed_runs_kernel_by_kernel_and_the_log_says_why(
    graph: type[Again], reason: str, more: bool, caplog: pytest.LogCaptureFixture
) -> None:
    setup = replace(Setup(constraint="penalty", optimizer="adam"), **(ALL if more else {}))
    eager, graphed = setup.trainer(), setup.trainer(graph)
    train(eager, setup.steps)
    with caplog.at_level(logging.INFO, "wgan_cli"):
        train(graphed, setup.steps)
    assert_same(eager, graphed)
    assert [record.getMessage() for record in caplog.records] == [
        f"A training step cannot be a CUDA graph ({reason}): it runs kernel by kernel."
    ]


def test_memory_that_runs_out_in_the_step_itself_ends_the_run() -> None:
    class Small(Again):
        def rehearse(self, step: Callable[[], None]) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with pytest.raises(torch.OutOfMemoryError):
        train(Setup().trainer(Small), STEPS)


@pytest.mark.parametrize("cut", exhaustive_beyond([2, 5], range(1, 12)))
@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_a_run_cut_between_steps_goes_on_bit_for_bit(cut: int, optimizer: str) -> None:
    """With graphs or without, before and after the cut."""
    setup = Setup(optimizer=optimizer, **ALL)
    whole = setup.trainer(Again)
    train(whole, setup.steps)
    for before, after in itertools.product((Again, None), repeat=2):
        first, second = setup.trainer(before), setup.trainer(after)
        train(first, cut)
        state = copy.deepcopy(first.state_dict())
        second.load_state_dict(state)
        assert_same(first, second)
        train(second, setup.steps)
        assert_same(whole, second)


@pytest.mark.parametrize("inner", [1, 2, 4])
@pytest.mark.parametrize("graph", [None, Again])
def test_a_step_cut_between_critic_updates_goes_on_bit_for_bit(
    inner: int, graph: type[Again] | None
) -> None:
    setup = Setup(constraint="penalty", **ALL)
    whole, cut, resumed = setup.trainer(), setup.trainer(), setup.trainer(graph)
    train(whole, setup.steps)
    train(cut, 4)
    requests = iter([None] * inner + [PreemptedError("The run was asked to stop.")])
    cut.signals.overdue = lambda: next(requests)
    with pytest.raises(PreemptedError):
        cut.train_step()
    resumed.load_state_dict(copy.deepcopy(cut.state_dict()))
    assert (resumed.step, resumed.inner) == (4, inner)
    train(resumed, setup.steps)
    assert_same(whole, resumed)


@pytest.mark.parametrize("relativistic", [False, True])
def test_a_step_cut_before_its_generator_update_goes_on_bit_for_bit(relativistic: bool) -> None:
    """As where another rank is lost in the generator update."""

    class Relative(Wasserstein):
        def generator(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
            base = super().generator(fake_scores)
            return base if real_scores is None else base + real_scores.square().mean()

    class LostError(Exception):
        pass

    def lost(*arguments: Any) -> Tensor:
        raise LostError

    setup = Setup(constraint="penalty", loss=Relative(), relativistic=relativistic, **ALL)
    whole, cut, resumed = (setup.trainer() for _ in range(3))
    train(whole, setup.steps)
    train(cut, 4)
    cut.updates.generator_update = lost  # type: ignore[method-assign]
    with pytest.raises(LostError):
        cut.train_step()
    resumed.load_state_dict(copy.deepcopy(cut.state_dict()))
    assert (resumed.step, resumed.inner) == (4, 5)
    train(resumed, setup.steps)
    assert_same(whole, resumed)


@pytest.mark.parametrize("optimizer", ["rmsprop", "sgd", "adam"])
def test_a_checkpoint_is_as_without_graphs(optimizer: str) -> None:
    """Its rates and counts are plain, and trainers with the CPU's inputs go on from it."""
    setup = Setup(optimizer=optimizer)
    graphed, plain, back = (
        setup.trainer(Again),
        setup.trainer(staged=False),
        setup.trainer(Again),
    )
    train(graphed, WARM_UP + 2)
    state = copy.deepcopy(graphed.state_dict())
    (group,) = state["critic_optimizer"]["param_groups"]
    assert type(group["lr"]) is float
    assert group["lr"] == RATE * (1 - (WARM_UP + 1) / 16)
    assert not group.get("capturable")
    plain.load_state_dict(state)
    assert_same(graphed, plain)
    train(plain, STEPS)
    back.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert_same(plain, back)
    train(back, 2 * STEPS)
    assert Again.replays > 4
    for value in state_of(back).values():
        assert not isinstance(value, Tensor) or value.isfinite().all()


class Spoilt(Constraint):
    """A penalty whose factor lies on the device: a callback can make it NaN."""

    def __init__(self) -> None:
        self.factor = torch.zeros(())

    def penalty(
        self, critic: nn.Module, real: Tensor, fake: Tensor, draws: Draws, labels: Any = None
    ) -> Tensor:
        return self.factor * sum(weight.sum() for weight in critic.parameters())


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("keeps_finite", [True, False])
@pytest.mark.parametrize("after", range(WARM_UP - 1, STEPS - 1))
def test_nan_moves_no_weight_and_does_not_confuse_the_check(
    after: int, keeps_finite: bool, on_cpu: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """NaN may come in the warm-up, in the recorded step, in the compared one or in a later one."""
    constraint = Spoilt()
    trainer = Setup(constraint=constraint, keeps_finite=keeps_finite).trainer(Again)
    trainer.updates.nan_guard._on_cpu = on_cpu
    train(trainer, after)
    before = state_of(trainer)
    constraint.factor.fill_(NAN)
    train(trainer, STEPS)
    assert caplog.records == []
    assert trainer.updates.nan_guard.tripped()
    assert trainer.updates.nan_guard.updates_passed() == after
    assert Again.replays == STEPS - WARM_UP - 1
    for key, value in state_of(trainer).items():
        if key.startswith(("/generator", "/critic")) and not key.endswith(("step", "lr")):
            same = torch.equal(value, before[key]) if isinstance(value, Tensor) else True
            assert same, key
    with pytest.raises(DivergedError, match=f"critic/penalty became NaN in step {after + 1}"):
        trainer.check_finite({})


class InMemory(Rollback):
    """Goes back to a state that a test has kept."""

    state: dict[str, Any]

    def state_to_load(self, error: DivergedError, at: int, so_far: Any) -> dict[str, Any]:
        record = RollbackRecord(at, self.state["step"], self.lr_factor, error.what)
        return {**copy.deepcopy(self.state), "returns": [asdict(record)]}


class Spoil(Callback):
    """Keeps the state after step `keep`, makes a factor NaN after step `at`; then mends it."""

    def __init__(self, factor: Tensor, rollback: InMemory, keep: int, at: int) -> None:
        self.factor, self.rollback, self.keep, self.at = factor, rollback, keep, at
        self.back: list[int] = []

    def on_step(self, trainer: Trainer, point: Point) -> None:
        if point.step == self.keep:
            self.rollback.state = copy.deepcopy(trainer.state_dict())
        if point.step == self.at and not self.back:
            self.factor.fill_(NAN)

    def on_rollback(self, trainer: Trainer) -> None:
        self.back.append(trainer.step)
        self.factor.zero_()


@pytest.mark.parametrize("at", [WARM_UP + 1, WARM_UP + 2, WARM_UP + 4])
def test_a_rollback_records_anew_and_goes_on_as_without_graphs(at: int) -> None:
    trainers = []
    for graph in (None, Again):
        constraint, rollback = Spoilt(), InMemory(None, 3, 0.5)
        spoil = Spoil(constraint.factor, rollback, WARM_UP, at)
        setup = Setup(constraint=constraint, optimizer="adam", ema=0.5, steps=14)
        trainer = setup.trainer(graph, callbacks=[spoil], rollback=rollback)
        trainer.fit()
        assert spoil.back == [WARM_UP]
        assert trainer.rollbacks[0].at == at + 1
        trainers.append(trainer)
    assert_same(*trainers)
    assert Again.made == 2
    # 11 steps after the rollback, of which 3 are the warm-up and one is recorded.
    assert Again.replays >= 7


def test_replayed_terms_are_averaged_and_counted() -> None:
    """Log points say what they say without graphs."""

    class Noting(Callback):
        def __init__(self) -> None:
            self.points: list[dict[str, float]] = []

        def on_step(self, trainer: Trainer, point: Point) -> None:
            if point.log:
                shown = point.scalars.items()
                terms = {tag: x for tag, x in shown if not tag.startswith("throughput")}
                self.points.append(terms)

    notes = Noting(), Noting()
    setup = Setup(**{**ALL, "steps": 14})
    for graph, note in zip((None, Again), notes, strict=True):
        setup.trainer(graph, callbacks=[note]).fit()
    assert len(notes[0].points) == 4
    assert notes[0].points == notes[1].points


class ByHand(torch.optim.SGD):
    """A user's own: its rate falls with a count, kept in `place`, that Python increments."""

    place = "state"

    def step(self, *arguments: Any, **more: Any) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        (weight,) = group["params"]
        where = {"state": self.state[weight], "group": group, "attribute": vars(self)}[self.place]
        where["steps"] = where.get("steps", 0) + 1
        weight.data.sub_(weight.grad * (group["lr"] / where["steps"]))


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("place", ["state", "group", "attribute"])
def test_an_optimizer_that_counts_on_the_host_is_not_recorded(
    place: str, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    kind = type("ByHand", (ByHand,), {"place": place})
    setup = Setup(optimizer=lambda weights, lr: kind(weights, lr=lr))
    eager, graphed = setup.trainer(), setup.trainer(Waits if waits else Again)
    train(eager, STEPS)
    train(graphed, STEPS)
    assert_same(eager, graphed)
    (record,) = caplog.records
    reason = "every step changes a number, or replaces a tensor, in Python: steps"
    if waits:
        reason = "called a synchronizing CUDA operation"
    assert f"({reason})" in record.getMessage()
    assert Again.replays == 0


def test_a_count_on_another_device_than_the_weights_is_one_on_the_host() -> None:
    weight = nn.Parameter(torch.zeros(3, device="meta"))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer.state[weight]["average"] = torch.zeros(3, device="meta")
    assert count_on_host(optimizer) is None
    optimizer.state[weight]["step"] = torch.zeros(())
    assert count_on_host(optimizer) == "step"


class Annealed(Constraint):
    """A user's own: its penalty falls with a count in Python."""

    def __init__(self) -> None:
        self.calls = 0

    def penalty(self, critic: nn.Module, real: Tensor, *rest: Any) -> Tensor:
        self.calls += 1
        return critic(real).square().mean() / self.calls


class AnnealedLoss(Wasserstein):
    """A user's own, likewise."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def critic(self, real_scores: Tensor, fake_scores: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        real, fake = super().critic(real_scores, fake_scores)
        return real / self.calls, fake


@pytest.mark.parametrize("what", ["constraint", "loss"])
def test_a_users_count_in_a_constraint_or_a_loss_is_not_frozen(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    kinds: dict[str, Callable[[], Any]] = {"constraint": Annealed, "loss": AnnealedLoss}
    eager, graphed = (Setup(**{what: kinds[what]()}).trainer(graph) for graph in (None, Again))
    train(eager, STEPS)
    train(graphed, STEPS)
    assert_same(eager, graphed)
    (record,) = caplog.records
    message = record.getMessage()
    assert "(every step changes a number, or replaces a tensor, in Python: calls)" in message


class Remembering(Wasserstein):
    """A user's own: weighs real scores by something that it keeps from update to update."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.kept = kept
        self.best = float("nan")

    def critic(self, real_scores: Tensor, fake_scores: Tensor) -> tuple[Tensor, Tensor]:
        real, fake = super().critic(real_scores, fake_scores)
        return real * (1 + float(self.weight(real.detach()))), fake

    def weight(self, score: Tensor) -> Any:
        self.kept[0] += 1
        return 1 / self.kept[0]


class ReplacingTensor(Remembering):
    def weight(self, score: Tensor) -> Tensor:
        self.kept = 0.9 * self.kept + 0.1 * score
        return self.kept


class ChangingTensor(Remembering):
    def weight(self, score: Tensor) -> Tensor:
        return self.kept.mul_(0.9).add_(0.1 * score)


class ReplacingBuffer(nn.Module):
    """A user's critic that replaces a buffer in each pass, as BatchNorm does in some frameworks."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, samples: Tensor) -> Tensor:
        scores: Tensor = self.critic(samples)
        self.mean = 0.9 * self.mean + 0.1 * scores.detach().mean()
        return scores - self.mean


class Momentum(torch.optim.Optimizer):
    """A user's optimizer that replaces its state in each step."""

    def __init__(self, weights: Any, lr: float) -> None:
        super().__init__(weights, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                state["m"] = 0.9 * state.get("m", torch.zeros_like(weight)) + weight.grad
                weight.sub_(group["lr"] * state["m"])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"loss": lambda: Remembering([0])}, "kept.0"),
        ({"loss": lambda: Remembering({0: 0.5})}, "kept.0"),
        ({"loss": lambda: ReplacingTensor(torch.zeros(()))}, "kept"),
        ({"optimizer": lambda: Momentum}, "m"),
        ({"constraint": lambda: Wrapping()}, "_buffers.mean"),
    ],
    ids=["list", "dict", "tensor", "optimizer", "buffer"],
)
def test_what_python_replaces_in_every_step_is_not_recorded(
    settings: dict[str, Callable[[], Any]], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    eager, graphed = (
        Setup(**{key: make() for key, make in settings.items()}).trainer(graph)
        for graph in (None, Again)
    )
    train(eager, STEPS)
    train(graphed, STEPS)
    assert_same(eager, graphed)
    (record,) = caplog.records
    assert f"replaces a tensor, in Python: {name})" in record.getMessage()
    assert Again.replays == 0


class Wrapping(Constraint):
    """Gives the critic a buffer that is replaced in each pass."""

    def wrap(self, critic: nn.Module) -> nn.Module:
        return ReplacingBuffer(critic)


def test_a_tensor_that_a_loss_changes_in_place_may_take_part(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The runs that check the graph leave it as one step does."""
    eager, graphed = (
        Setup(loss=ChangingTensor(torch.zeros(()))).trainer(graph) for graph in (None, Again)
    )
    train(eager, STEPS)
    train(graphed, STEPS)
    assert_same(eager, graphed)
    assert Again.replays > 0
    kept = [trainer.updates.loss.kept for trainer in (eager, graphed)]  # type: ignore[attr-defined]
    assert torch.equal(*kept)


class Hungry(Wasserstein):
    """Memory runs out in its next call if `full` is set."""

    full = False

    def critic(self, real_scores: Tensor, fake_scores: Tensor) -> tuple[Tensor, Tensor]:
        if Hungry.full:
            Hungry.full = False
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return super().critic(real_scores, fake_scores)


class Large(Again):
    """Leaves too little memory for the step beside it."""

    def replay(self) -> None:
        super().replay()
        Hungry.full = True


def test_a_graph_that_leaves_no_memory_for_its_check_is_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    eager, graphed = (Setup(loss=Hungry()).trainer(graph) for graph in (None, Large))
    train(eager, STEPS)
    train(graphed, STEPS)
    assert_same(eager, graphed)
    assert [record.getMessage() for record in caplog.records] == [
        "A training step cannot be a CUDA graph (a graph needs more memory than there is): it runs"
        " kernel by kernel."
    ]


@pytest.mark.parametrize("optimizer", ["rmsprop", "sgd", "adam"])
def test_a_run_without_graphs_goes_on_bit_for_bit_at_any_rate(optimizer: str) -> None:
    """A resumed run has its rates on the device for some steps, in float32."""
    make = OPTIMIZERS[optimizer]
    setup = Setup(optimizer=lambda weights, lr: make(weights, lr=1e-4), decay=LearningRateDecay())
    whole, cut, later = (setup.trainer(Impossible) for _ in range(3))
    train(whole, STEPS + 4)
    train(cut, STEPS)
    later.load_state_dict(copy.deepcopy(cut.state_dict()))
    train(later, STEPS + 4)
    assert_same(whole, later)
    assert state_of(whole)["/critic_optimizer/param_groups/0/lr"] == 1e-4


class FakeGenerator:
    def __init__(self, device: object = None) -> None:
        self.state = "spoiled"

    def initial_seed(self) -> int:
        return 7

    def manual_seed(self, seed: int) -> FakeGenerator:
        self.state = f"fresh {seed}"
        return self

    def graphsafe_get_state(self) -> str:
        return self.state

    def graphsafe_set_state(self, state: str) -> None:
        self.state = state


def test_a_failed_recording_leaves_the_stream_and_the_generators_usable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After one, torch stays on the recording's stream, and 2.11 with generators half recorded."""
    cuda, usual = torch.cuda, SimpleNamespace(device="cpu", device_index=0)
    on = [usual]

    @contextmanager
    def recording(graph: object, stream: object, capture_error_mode: str) -> Iterator[None]:
        on.append(SimpleNamespace(device="cpu", device_index=0))
        assert capture_error_mode == "thread_local"
        assert not gc.isenabled()
        yield
        raise AssertionError("a failed recording does not come here")

    default, own = FakeGenerator(), FakeGenerator()
    for name, fake in {
        "CUDAGraph": lambda: SimpleNamespace(register_generator_state=lambda generator: None),
        "current_stream": lambda: on[-1],
        "set_stream": on.append,
        "Stream": lambda index: f"stream of {index}",
        "graph": recording,
        "default_generators": [default],
    }.items():
        monkeypatch.setattr(cuda, name, fake)
    monkeypatch.setattr(torch, "Generator", FakeGenerator)

    def step() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        CudaGraph().record(step, own)  # type: ignore[arg-type]
    assert on[-1] is usual
    assert (default.state, own.state) == ("fresh 7", "fresh 7")
    assert gc.isenabled()


class Capturing(Again):
    """Says while it records that the stream is being captured, as CUDA does."""

    now = False

    def record(self, step: Callable[[], None], generator: torch.Generator) -> None:
        Capturing.now = True
        try:
            step()
        finally:
            Capturing.now = False


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: Capturing.now)
    yield
    Capturing.now = False


@pytest.mark.usefixtures("capturing")
def test_a_constraint_that_draws_on_the_cpu_is_not_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Shaken(Constraint):
        def penalty(self, critic: nn.Module, real: Tensor, fake: Tensor, draws: Draws) -> Tensor:
            return critic(real).mean() * float(draws.numpy().random())

    # Data of all steps are staged, so that they do not end where the step is recorded.
    setup = Setup(constraint=Shaken(), log=STEPS)
    eager, graphed = setup.trainer(), setup.trainer(Capturing)
    train(eager, STEPS)
    train(graphed, STEPS)
    assert_same(eager, graphed)
    assert [record.getMessage() for record in caplog.records] == [
        "A training step cannot be a CUDA graph (a constraint draws random numbers by numpy, which"
        " runs on the CPU): it runs kernel by kernel."
    ]


def rates_of(trainer: Trainer) -> list[Any]:
    optimizers = trainer.updates.critic_optimizer, trainer.updates.generator_optimizer
    return [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]


def test_rates_are_on_the_device_only_while_graphs_are_used() -> None:
    graphed, other = Setup().trainer(Again), Setup().trainer(Impossible)
    train(graphed, STEPS)
    tensors = rates_of(graphed)
    assert all(isinstance(rate, Tensor) for rate in tensors)
    assert [float(rate) for rate in tensors] == [RATE * (1 - (STEPS - 1) / 16)] * 2
    train(graphed, STEPS + 1)
    assert all(now is then for now, then in zip(rates_of(graphed), tensors, strict=True))
    train(other, STEPS)
    assert rates_of(other) == [RATE * (1 - (STEPS - 1) / 16)] * 2
    assert all(type(rate) is float for rate in rates_of(other))
    other.load_state_dict(copy.deepcopy(graphed.state_dict()))
    train(other, STEPS + 2)
    assert all(type(rate) is float for rate in rates_of(other))


def test_the_rate_that_was_asked_for_is_not_rounded_before_it_decays() -> None:
    """A tensor holds it in float32 only."""
    trainer = Setup(optimizer=lambda weights, lr: torch.optim.SGD(weights, lr=0.1)).trainer(Again)
    assert trainer.training_step.rates.at(0) == [0.1, 0.1]


class OnlyNumbers(torch.optim.SGD):
    """A user's optimizer that computes with the learning rate as a Python number."""

    tried = 0

    def step(self, closure: Any = None) -> None:
        self.tried += 1
        for group in self.param_groups:
            if isinstance(group["lr"], Tensor):
                raise TypeError("a number is needed")
        super().step()


def test_an_optimizer_that_takes_only_numbers_as_rates_runs_kernel_by_kernel(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setup = Setup(optimizer=lambda weights, lr: OnlyNumbers(weights, lr=lr, momentum=0.5))
    eager, graphed = setup.trainer(None), setup.trainer(Again)
    with caplog.at_level(logging.WARNING):
        train(graphed, STEPS)
    train(eager, STEPS)
    assert_same(eager, graphed)
    assert [record.getMessage() for record in caplog.records] == [
        "A training step cannot be a CUDA graph (OnlyNumbers does not take a learning rate on the"
        " device): it runs kernel by kernel."
    ]
    # The trial left nothing behind.
    assert graphed.updates.critic_optimizer.tried == 2 * STEPS  # type: ignore[attr-defined]


def test_without_graphs_a_step_stops_between_two_critic_updates_when_a_signal_has_waited() -> None:
    trainer = Setup().trainer(Impossible)
    train(trainer, STEPS)
    assert trainer.graphs is not None
    assert not trainer.graphs.possible
    asked = iter([None, PreemptedError("overdue")])
    trainer.signals.overdue = lambda: next(asked)  # type: ignore[method-assign]
    with pytest.raises(PreemptedError, match="overdue"):
        trainer.train_step()
    assert trainer.inner == 1


def test_the_graphs_of_a_closed_trainer_are_freed() -> None:
    trainer = Setup().trainer(Again)
    train(trainer, STEPS)
    assert isinstance(trainer.graphs, StepGraphs)
    assert trainer.graphs._graphs
    trainer.close()
    assert not trainer.graphs._graphs


def test_another_batch_size_than_the_data_of_a_step_is_not_assumed() -> None:
    """The shapes that a step stages are those of its batches."""
    trainer = Setup(conditional=True).trainer(Again)
    trainer.training_step.begin(0, 4)
    samples, labels = trainer.inputs.real(1)
    assert samples.shape == (BATCH, 1, 16, 16)
    assert labels is not None
    assert labels.shape == (BATCH,)
    assert samples.device == labels.device == CPU


def test_an_earlier_checkpoint_brings_back_the_data_of_its_step() -> None:
    """Also if the data of that step are still on the device, behind the cursor."""
    setup = Setup(log=100)
    trainer = setup.trainer()
    train(trainer, 2)
    early = copy.deepcopy(trainer.state_dict())
    train(trainer, 6)
    expected = state_of(trainer)
    trainer.load_state_dict(early)
    train(trainer, 6)
    found = state_of(trainer)
    assert all(
        torch.equal(found[key], each)
        for key, each in expected.items()
        if key[1] in "cg" and isinstance(each, Tensor)
    )
