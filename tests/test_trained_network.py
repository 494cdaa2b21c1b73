"""Flat weights, bf16 copies and the average: the same training as without them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wgan_cli.acceleration.bf16_copy import bf16_copy_of
from wgan_cli.acceleration.direct_gradients import DirectLinear
from wgan_cli.acceleration.trained_network import TrainedNetwork
from wgan_cli.constraints import Constraint, GradientPenalty, SpectralNorm, WeightClipping
from wgan_cli.flat_tensors import FlatBuffer, flatten_in_place, merge_adjacent
from wgan_cli.losses import Wasserstein
from wgan_cli.models import dcgan, lipschitz, mlp, parallel_lines, resnet
from wgan_cli.optimizers import RMSprop
from wgan_cli.randomness import Draws, Stream
from wgan_cli.training.run_state import ExponentialMovingAverage
from wgan_cli.training.updates import Updates

CPU = torch.device("cpu")
IMAGE = (3, 16, 16)
BATCH, LATENT, CLASSES = 8, 3, 4
Make = Callable[..., torch.optim.Optimizer]

pytestmark = pytest.mark.usefixtures("one_seeded_thread")


def networks(model: str, classes: int | None = None) -> tuple[nn.Module, nn.Module]:
    with Draws(0, Stream.GENERATOR_WEIGHTS).global_seed():
        if model == "mlp":
            return (
                mlp.Generator(LATENT, IMAGE, width=16, depth=2, classes=classes),
                mlp.Critic(IMAGE, 16, 2, classes=classes),
            )
        if model == "dcgan":
            return (
                dcgan.Generator(LATENT, IMAGE, width=8, classes=classes),
                dcgan.Critic(IMAGE, width=8, classes=classes),
            )
        size = (3, 28, 28)
        return (
            resnet.Generator(LATENT, size, width=8, classes=classes),
            resnet.Critic(size, width=8, classes=classes),
        )


def updates_of(
    made: tuple[nn.Module, nn.Module],
    *,
    flat: bool,
    bf16: bool = False,
    make: Make = torch.optim.SGD,
    constraint: Constraint | None = None,
    direct: bool = False,
    pieces: int = 1,
    **settings: Any,
) -> Updates:
    pair = [
        TrainedNetwork(network, flat=flat, bf16=bf16, direct=direct, pieces=pieces)
        for network in copy.deepcopy(made)
    ]
    optimizers = [make(weights.optimizer_parameters, lr=1e-2, **settings) for weights in pair]
    return Updates(*pair, *optimizers, Wasserstein(), constraint or WeightClipping(0.1))


def trained(updates: Updates, steps: int, classes: int | None = None) -> Tensor:
    """The numbers of all critic updates, (steps, 6)."""
    shape = IMAGE if not isinstance(updates.critic, resnet.Critic) else (3, 28, 28)
    labels = None if classes is None else torch.arange(BATCH) % classes
    numbers = []
    for step in range(steps):
        real = Draws(0, Stream.POINTS, step).uniform((BATCH, *shape), CPU) * 2 - 1
        latent = Draws(0, Stream.CRITIC_NOISE, step).normal((BATCH, LATENT), CPU)
        numbers.append(updates.critic_update(real, latent, Draws(0, Stream.PENALTY, step), labels))
        latent = Draws(0, Stream.GENERATOR_NOISE, step).normal((BATCH, LATENT), CPU)
        updates.generator_update(latent, labels)
    return torch.stack(numbers)


def states_equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(states_equal(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(states_equal, one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


def numbers_of(state: Any) -> Any:
    """The state without what is no number, in the same structure."""
    if isinstance(state, dict):
        return {str(k): numbers_of(v) for k, v in state.items() if v is not None}
    return [numbers_of(v) for v in state] if isinstance(state, list | tuple) else state


# Blocks


def test_a_block_holds_tensors_in_their_own_order_in_memory() -> None:
    image = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    flat, scalar = torch.randn(5), torch.tensor(7.0)
    values = [tensor.clone() for tensor in (image, flat, scalar)]
    tensors = [nn.Parameter(tensor) for tensor in (image, flat, scalar)]
    block = flatten_in_place(tensors)
    assert block.flat.shape == (4 * 3 * 2 * 2 + 5 + 1,)
    for tensor, value in zip(tensors, values, strict=True):
        assert torch.equal(tensor, value)
    assert tensors[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(block.flat[:48], image.permute(0, 2, 3, 1).flatten())
    block.flat.mul_(2)
    assert float(tensors[2].detach()) == 14
    assert torch.equal(block.split(block.flat + 1)[1], tensors[1] + 1)
    behind_others = torch.cat([torch.zeros(7), block.flat])[7:]
    assert torch.equal(block.split(behind_others)[1], tensors[1])


def test_tensors_are_covered_by_the_fewest_that_are_the_same_memory() -> None:
    tensors = [torch.full((n,), float(n)) for n in (2, 3, 4, 5)]
    flatten_in_place(tensors)
    alone, gapped = torch.zeros(3), torch.zeros(4, 4)[:, :2]
    assert [len(found) for found in merge_adjacent(tensors)] == [14]
    assert sorted(map(len, merge_adjacent([*tensors[:2], tensors[3], alone]))) == [3, 5, 5]
    assert [found.shape for found in merge_adjacent([gapped])] == [gapped.shape]
    memory = torch.zeros(16)
    # Between its own numbers lie those of others.
    striped, behind = memory.as_strided((4,), (2,), 0), memory[4:8]
    assert len(merge_adjacent([striped, behind])) == 2
    other_kind = memory.view(torch.bfloat16)[4:8]
    assert len(merge_adjacent([memory[:4], other_kind])) == 2
    for found in merge_adjacent([tensors[3], tensors[1], tensors[0]]):
        found.zero_()
    assert [float(tensor.sum()) for tensor in tensors] == [0, 0, 16, 0]
    halves = torch.zeros(4, dtype=torch.bfloat16)
    assert len(merge_adjacent([halves[:2], halves[2:]])) == 1
    assert merge_adjacent([]) == []


def test_a_clip_that_spares_normalisation_cuts_only_the_rest() -> None:
    critic = dcgan.Critic(IMAGE, width=4, norm="layer")
    TrainedNetwork(critic, flat=True)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.fill_(1.0)
    WeightClipping(0.25, exempt_normalization=True).after_step(critic)
    for name, parameter in critic.named_parameters():
        spared = isinstance(critic.get_submodule(name.rpartition(".")[0]), nn.GroupNorm)
        assert torch.all(parameter == (1.0 if spared else 0.25)), name


def test_a_clip_follows_weights_that_were_moved() -> None:
    critic, clipping = mlp.Critic(IMAGE, 8, 1), WeightClipping(1e-3)
    clipping.after_step(critic)
    TrainedNetwork(critic, flat=True)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.fill_(1.0)
    clipping.after_step(critic)
    assert all(torch.all(parameter == 1e-3) for parameter in critic.parameters())


# Flat weights


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (torch.optim.SGD, {"momentum": 0.5, "weight_decay": 0.1}),
        (torch.optim.Adam, {"betas": (0.0, 0.9), "fused": True}),
        (RMSprop, {}),
        (RMSprop, {"momentum": 0.5}),
    ],
)
@pytest.mark.parametrize("model", ["mlp", "dcgan"])
def test_flat_weights_are_trained_as_those_apart(
    model: str, make: Make, settings: dict[str, Any]
) -> None:
    made = networks(model)
    apart = updates_of(made, flat=False, make=make, **settings)
    flat = updates_of(made, flat=True, make=make, **settings)
    (parameter,) = flat.critic_optimizer.param_groups[0]["params"]
    assert parameter.shape == (sum(p.numel() for p in flat.critic.parameters()),)
    torch.testing.assert_close(trained(apart, 4), trained(flat, 4))
    # The states of checkpoints, too, are torch's own, an entry a layer.
    assert states_equal(apart.state_dict(), flat.state_dict())


@pytest.mark.parametrize("make", [torch.optim.SGD, RMSprop])
def test_states_of_apart_and_flat_weights_go_on_in_each_other(make: Make) -> None:
    made = networks("dcgan")
    settings = {"momentum": 0.5} if make is torch.optim.SGD else {}
    first = updates_of(made, flat=False, make=make, **settings)
    trained(first, 2)
    state = copy.deepcopy(first.state_dict())
    apart, flat = (updates_of(made, flat=j, make=make, **settings) for j in (False, True))
    for updates in (apart, flat):
        updates.load_state_dict(copy.deepcopy(state))
        assert states_equal(updates.state_dict(), state)
        trained(updates, 2)
    assert states_equal(apart.state_dict(), flat.state_dict())


# Gradients that linear layers write themselves


@pytest.mark.parametrize("classes", [None, CLASSES])
@pytest.mark.parametrize("model", ["mlp", "resnet"])
def test_direct_gradients_are_autograds_to_the_last_bit(model: str, classes: int | None) -> None:
    made = networks(model, classes)
    plain, direct = (updates_of(made, flat=True, direct=d, make=RMSprop) for d in (False, True))
    assert direct.trained_critic.forward_network is not direct.critic
    assert torch.equal(trained(plain, 4, classes), trained(direct, 4, classes))
    assert states_equal(plain.state_dict(), direct.state_dict())


@pytest.mark.parametrize("rows", [1, 2, 64, 256, 300, 512])
def test_direct_gradients_have_autograds_bits_at_every_batch_size(rows: int) -> None:
    network = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.Linear(512, 1))
    real, fake = torch.randn(2, rows, 784)
    (network(real).mean() - network(fake).mean()).backward()
    expected = torch.cat([weight.grad.flatten() for weight in network.parameters()])
    weights = TrainedNetwork(network, flat=True, direct=True)
    weights.zero_grad()
    (weights(real).mean() - weights(fake).mean()).backward()
    weights.gather_gradients()
    assert torch.equal(weights.optimizer_parameters[0].grad, expected)


def test_layers_that_are_frozen_or_have_hooks_stay_as_they_are() -> None:
    frozen, hooked, plain = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    frozen.bias.requires_grad_(False)
    hooked.weight.register_hook(lambda gradient: gradient * 0.5)
    weights = TrainedNetwork(nn.Sequential(frozen, hooked, plain), flat=True, direct=True)
    kinds = [type(layer) for layer in weights.forward_network.children()]
    assert kinds == [nn.Linear, nn.Linear, DirectLinear]
    weights.zero_grad()
    weights(torch.ones(1, 2)).sum().backward()
    weights.gather_gradients()
    assert hooked.weight.grad is not None
    assert (
        TrainedNetwork(nn.Sequential(frozen), flat=True, direct=True).forward_network[0] is frozen
    )


def test_a_penaltys_gradient_is_added_to_direct_gradients() -> None:
    made = networks("mlp")
    plain, direct = (
        updates_of(made, flat=True, direct=d, constraint=GradientPenalty(1000.0))
        for d in (False, True)
    )
    torch.testing.assert_close(trained(plain, 3), trained(direct, 3))


def test_direct_gradients_begin_anew_and_missing_ones_are_zero() -> None:
    network = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
    weights = TrainedNetwork(network, flat=True, direct=True)
    for used in (0, 1):
        weights.zero_grad()
        weights.forward_network[used](torch.ones(3, 2)).sum().backward()  # type: ignore[index]
        weights.gather_gradients()
    assert weights.optimizer_parameters[0].grad.tolist() == [0, 0, 0, 3, 3, 3]


def test_a_frozen_network_writes_no_direct_gradients() -> None:
    weights = TrainedNetwork(nn.Sequential(nn.Linear(2, 1, bias=False)), flat=True, direct=True)
    weights.zero_grad()
    inputs = torch.ones(3, 2, requires_grad=True)
    with weights.frozen:
        weights(inputs).sum().backward()
    weights.gather_gradients()
    assert weights.optimizer_parameters[0].grad.tolist() == [0, 0]
    assert torch.equal(inputs.grad, weights.network[0].weight.expand(3, 2))


def test_direct_gradients_of_weights_that_layers_share_are_added() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    network = nn.Sequential(first, nn.ReLU(), second)
    inputs = torch.rand(5, 2) + 1
    network(inputs).sum().backward()
    expected = first.weight.grad.clone()
    weights = TrainedNetwork(network, flat=True, direct=True)
    weights.zero_grad()
    weights(inputs[None]).sum().backward()
    weights(inputs).sum().backward()
    weights.gather_gradients()
    got = weights.optimizer_parameters[0].grad[: first.weight.numel()].view(2, 2)
    torch.testing.assert_close(got, 2 * expected)


@pytest.mark.parametrize("pieces", [2, 36, 10**6])
@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (torch.optim.SGD, {"momentum": 0.5}),
        (torch.optim.Adam, {"betas": (0.5, 0.9), "fused": True}),
        (RMSprop, {}),
    ],
)
def test_weights_in_pieces_are_trained_and_saved_as_one(
    make: Make, settings: dict[str, Any], pieces: int
) -> None:
    made = networks("mlp")
    whole, divided, later = (
        updates_of(made, flat=True, make=make, pieces=count, **settings)
        for count in (1, pieces, pieces)
    )
    for updates in (whole, divided, later):
        updates.critic_clip = 0.01
    count = len(divided.trained_critic.optimizer_parameters)
    assert count == min(pieces, -(-sum(p.numel() for p in divided.critic.parameters()) // 4))
    # The CPU's fused kernels round the last numbers of a tensor otherwise than those before.
    alike = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-6)
    alike(trained(whole, 3), trained(divided, 3))
    alike(numbers_of(whole.state_dict()), numbers_of(divided.state_dict()))
    later.load_state_dict(copy.deepcopy(whole.state_dict()))
    trained(whole, 2)
    trained(later, 2)
    alike(numbers_of(whole.state_dict()), numbers_of(later.state_dict()))


@pytest.mark.parametrize("constraint", [WeightClipping(0.1), GradientPenalty()])
@pytest.mark.parametrize("model", ["mlp", "dcgan", "resnet"])
def test_gradients_that_are_joined_first_are_those_copied_one_by_one(
    model: str, constraint: Constraint
) -> None:
    """The form for CUDA, computed on the CPU."""
    made = networks(model)
    apart, joined = (
        updates_of(made, flat=True, bf16=True, constraint=constraint) for _ in range(2)
    )
    for weights in (joined.trained_critic, joined.trained_generator):
        assert weights.copies
        weights._joins_gradients = True
    assert torch.equal(trained(apart, 2), trained(joined, 2))
    assert states_equal(apart.state_dict(), joined.state_dict())


def test_a_state_of_another_network_is_refused() -> None:
    state = updates_of(networks("mlp"), flat=True).state_dict()["critic_optimizer"]
    weights = TrainedNetwork(dcgan.Critic(IMAGE, width=4), flat=True)
    with pytest.raises(ValueError, match="another network"):
        weights.join_optimizer_state({**state, "param_groups": [{"params": [0]}]})


@pytest.mark.parametrize("make", [RMSprop, torch.optim.Adam])
def test_the_state_of_a_single_number_is_not_taken_for_the_count_of_steps(make: Make) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    network.gain = nn.Parameter(torch.tensor(1.0))
    weights = TrainedNetwork(network, flat=True)
    optimizer = make(weights.optimizer_parameters, lr=0.1)
    weights.optimizer_parameters[0].grad.fill_(1.0)
    optimizer.step()
    state = weights.split_optimizer_state(optimizer.state_dict())
    assert [entry["step"].shape for entry in state["state"].values()] == [()] * 3
    assert len({entry["step"].data_ptr() for entry in state["state"].values()}) == 3
    optimizer.load_state_dict(weights.join_optimizer_state(state))
    optimizer.step()
    again = weights.split_optimizer_state(optimizer.state_dict())["state"]
    assert [float(entry["step"]) for entry in again.values()] == [2.0] * 3


def test_a_gradient_that_is_missing_is_not_the_one_before() -> None:
    network = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
    weights = TrainedNetwork(network, flat=True)
    for used in (network[0], network[1]):
        weights.zero_grad()
        used(torch.ones(1, 2)).sum().backward()
        weights.gather_gradients()
    assert weights.optimizer_parameters[0].grad.tolist() == [0, 0, 0, 1, 1, 1]


def test_weights_of_two_kinds_stay_apart() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    assert len(TrainedNetwork(network, flat=True).optimizer_parameters) == 4


def test_a_layer_without_gradient_does_not_move() -> None:
    critic = mlp.Critic(IMAGE, 8, 1)
    critic.unused = nn.Linear(2, 2)  # type: ignore[assignment]
    before = critic.unused.weight.detach().clone()
    updates = updates_of((networks("mlp")[0], critic), flat=True, constraint=GradientPenalty())
    trained(updates, 3)
    assert torch.equal(updates.critic.unused.weight, before)  # type: ignore[union-attr, arg-type]


# Twins


@pytest.mark.parametrize("classes", [None, CLASSES])
@pytest.mark.parametrize("model", ["mlp", "dcgan", "resnet"])
def test_a_bf16_copy_computes_what_its_network_does_in_fewer_digits(
    model: str, classes: int | None
) -> None:
    labels = None if classes is None else torch.arange(BATCH) % classes
    generator, critic = networks(model, classes)
    latent = torch.randn(BATCH, LATENT)
    exact = generator(latent) if labels is None else generator(latent, labels)
    fake = TrainedNetwork(generator, flat=True, bf16=True)(latent, labels)
    assert fake.dtype == torch.bfloat16
    torch.testing.assert_close(fake.float(), exact, rtol=0.05, atol=0.05)
    scores = critic(exact) if labels is None else critic(exact, labels)
    found = TrainedNetwork(critic, flat=True, bf16=True)(fake, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, scores, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("model", ["mlp", "dcgan", "resnet"])
def test_a_bf16_copy_is_trained_as_autocast_trains(model: str) -> None:
    made = networks(model)
    bf16_copies = updates_of(made, flat=True, bf16=True, constraint=GradientPenalty())
    assert bf16_copies.trained_critic.forward_network is not bf16_copies.critic
    cast = updates_of(made, flat=False, bf16=True, constraint=GradientPenalty())
    assert cast.trained_critic.forward_network is cast.critic
    one, other = trained(bf16_copies, 4), trained(cast, 4)
    torch.testing.assert_close(one, other, rtol=0.05, atol=0.02)
    for network in ("generator", "critic"):
        states = (bf16_copies.state_dict()[network], cast.state_dict()[network])
        for name, value in states[0].items():
            assert value.dtype == states[1][name].dtype
            torch.testing.assert_close(value.float(), states[1][name].float(), rtol=0.1, atol=0.02)


def test_a_bf16_copy_shares_what_is_not_rounded_and_follows_the_rest() -> None:
    generator, _ = networks("dcgan")
    weights = TrainedNetwork(generator, flat=True, bf16=True)
    bf16_copy = dict(weights.forward_network.named_parameters())
    for name, own in generator.named_parameters():
        shared = isinstance(generator.get_submodule(name.rpartition(".")[0]), nn.BatchNorm2d)
        assert (bf16_copy[name] is own) == shared, name
    with torch.no_grad():
        weights.optimizer_parameters[0].add_(1)
    weights.refresh_bf16_copy()
    for name, own in generator.named_parameters():
        assert torch.equal(bf16_copy[name].float(), own.to(bf16_copy[name].dtype).float()), name
    weights(torch.randn(BATCH, LATENT))
    counts = [m.num_batches_tracked for m in generator.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [int(count) for count in counts] == [1] * len(counts)


def test_the_gradient_of_a_penalty_reaches_the_weights_beside_a_bf16_copys() -> None:
    made = networks("dcgan")
    plain = updates_of(made, flat=True)
    penalised = updates_of(made, flat=True, bf16=True, constraint=GradientPenalty(1000.0))
    exact = updates_of(made, flat=False, constraint=GradientPenalty(1000.0))
    norms = [float(trained(updates, 1)[0, -1]) for updates in (plain, penalised, exact)]
    assert norms[1] == pytest.approx(norms[2], rel=0.01)
    assert norms[1] > 10 * norms[0]


def test_a_network_whose_code_may_not_go_with_bfloat16_has_no_copy() -> None:
    critic = mlp.Critic(IMAGE, 8, 1)
    weights = TrainedNetwork(critic, flat=True, bf16=True, bf16_copy=False)
    assert weights.forward_network is critic


@pytest.mark.parametrize(
    "network",
    [
        lambda: SpectralNorm().wrap(mlp.Critic(IMAGE, 8, 1)),
        lambda: lipschitz.Critic(IMAGE, width=8, depth=1),
        lambda: dcgan.Critic(IMAGE, width=8, norm="layer"),
        lambda: parallel_lines.Generator(1, (2,)),
    ],
    ids=["parametrized", "lipschitz", "layer norm", "own parameter"],
)
def test_networks_that_may_not_go_with_it_have_no_bf16_copy_and_the_log_says_so(
    network: Callable[[], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    made = network()
    assert bf16_copy_of(made) is None
    assert TrainedNetwork(made, flat=True, bf16=True).forward_network is made
    for weights in (
        TrainedNetwork(made, flat=True),
        TrainedNetwork(mlp.Critic(IMAGE, 8, 1), flat=True, bf16=True),
        TrainedNetwork(made, flat=True, bf16=True),
    ):
        weights.log_autocast("critic")
    (line,) = caplog.messages
    assert "The critic runs under autocast" in line


def test_scores_closer_than_bfloat16_can_tell_stay_apart() -> None:
    critic = mlp.Critic((2,), width=8, depth=1)
    with torch.no_grad():
        critic.layers[-1].bias.fill_(300.0)  # type: ignore[union-attr, operator]
    points = torch.randn(64, 2)
    exact = critic(points).std()
    assert critic(points).bfloat16().float().std() == 0
    for flat in (True, False):
        scores = TrainedNetwork(copy.deepcopy(critic), flat=flat, bf16=True)(points)
        assert scores.dtype == torch.float32
        assert scores.std().item() == pytest.approx(exact.item(), rel=0.05)


def test_a_bf16_copy_follows_what_is_loaded() -> None:
    made = networks("mlp")
    first = updates_of(made, flat=True, bf16=True, make=RMSprop)
    trained(first, 2)
    state = copy.deepcopy(first.state_dict())
    later = updates_of(networks("mlp"), flat=True, bf16=True, make=RMSprop)
    later.load_state_dict(state)
    latent = torch.randn(BATCH, LATENT)
    assert torch.equal(later.trained_generator(latent), first.trained_generator(latent))
    assert torch.equal(trained(first, 2), trained(later, 2))


def test_bfloat16_goes_into_a_network_without_a_bf16_copy() -> None:
    samples = torch.randn(BATCH, *IMAGE).bfloat16()
    assert TrainedNetwork(mlp.Critic(IMAGE, 8, 1))(samples).dtype == torch.float32


# Compiling


def test_what_cannot_be_compiled_runs_as_it_is_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(network: nn.Module) -> None:
        def fails(*inputs: Tensor) -> Tensor:
            network.train()
            nn.Module._call_impl(network, *inputs)
            raise RuntimeError("CppCompileError: C++ compile error\n\nmore")

        network._compiled_call_impl = fails

    monkeypatch.setattr(nn.Module, "compile", broken)
    generator, _ = networks("dcgan")
    before = copy.deepcopy(generator.state_dict())
    weights = TrainedNetwork(generator, flat=True, bf16=True)
    with caplog.at_level(logging.WARNING):
        weights.compile("generator", torch.zeros(BATCH, LATENT))
    assert [record.getMessage() for record in caplog.records] == [
        "The generator cannot be compiled (CppCompileError: C++ compile error): it runs uncompiled."
    ]
    assert states_equal(dict(generator.state_dict()), dict(before))
    assert weights(torch.zeros(BATCH, LATENT)).shape == (BATCH, *IMAGE)


def test_trying_a_compiled_network_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda network: None)
    for network in networks("dcgan"):
        before = copy.deepcopy(network.state_dict())
        shape = (LATENT,) if isinstance(network, dcgan.Generator) else IMAGE
        TrainedNetwork(network).compile("network", torch.zeros(BATCH, *shape))
        assert states_equal(dict(network.state_dict()), dict(before))
        assert all(parameter.grad is None for parameter in network.parameters())


# The average


def test_the_average_is_torchs() -> None:
    updates = updates_of(networks("dcgan"), flat=True)
    average = ExponentialMovingAverage(updates.generator, 0.9)
    reference = AveragedModel(
        updates.generator, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True
    )
    for _ in range(4):
        trained(updates, 1)
        average.update()
        reference.update_parameters(updates.generator)
    for name, value in reference.module.state_dict().items():
        ours = average.module.state_dict()[name]
        # torch's averages of what counts are cut to whole numbers.
        expected = value if value.is_floating_point() else updates.generator.state_dict()[name]
        assert torch.equal(ours, expected), name
    assert not any(p.requires_grad for p in average.module.parameters())


def test_a_blocks_parts_do_not_overlap() -> None:
    block = FlatBuffer([torch.zeros(2, 3), torch.zeros(()), torch.zeros(0), torch.zeros(4)])
    for number, part in enumerate(block.parts):
        part.fill_(float(number))
    assert block.flat.tolist() == [0] * 6 + [1] + [3] * 4
