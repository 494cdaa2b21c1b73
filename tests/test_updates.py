"""One critic and one generator update: what they change, what they report, what they compute."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from wgan_cli.acceleration.tf32 import use_ieee_float32
from wgan_cli.acceleration.trained_network import Frozen, TrainedNetwork
from wgan_cli.constraints import Constraint, GradientPenalty, Unconstrained, WeightClipping
from wgan_cli.losses import Gan, Hinge, Loss, Wasserstein
from wgan_cli.models import dcgan, mlp
from wgan_cli.randomness import Draws, Stream
from wgan_cli.training.updates import CRITIC_TERMS, GENERATOR_TERMS, Updates

CPU = torch.device("cpu")
IMAGE = (1, 16, 16)
BATCH = 8
LATENT = 3
DRAWS = Draws(0, Stream.PENALTY)
Make = Callable[..., torch.optim.Optimizer]


pytestmark = pytest.mark.usefixtures("one_seeded_thread")


def networks(model: str, *, norm: str = "batch") -> tuple[nn.Module, nn.Module]:
    with Draws(0, Stream.GENERATOR_WEIGHTS).global_seed():
        if model == "mlp":
            return mlp.Generator(LATENT, IMAGE, width=16, depth=2), mlp.Critic(IMAGE, 16, 2)
        return (
            dcgan.Generator(LATENT, IMAGE, width=4, norm=norm),
            dcgan.Critic(IMAGE, width=4, norm=norm),
        )


def batch() -> tuple[Tensor, Tensor]:
    real = Draws(0, Stream.POINTS).uniform((BATCH, *IMAGE), CPU) * 2 - 1
    return real, Draws(0, Stream.CRITIC_NOISE).normal((BATCH, LATENT), CPU)


def updates_of(
    generator: nn.Module,
    critic: nn.Module,
    *,
    loss: Loss | None = None,
    constraint: Constraint | None = None,
    make: Make = torch.optim.SGD,
    lr: float = 0.1,
    bf16: bool = False,
    grad_clip: tuple[float | None, float | None] = (None, None),
) -> Updates:
    return Updates(
        TrainedNetwork(generator, bf16=bf16),
        TrainedNetwork(critic, bf16=bf16),
        make(generator.parameters(), lr=lr),
        make(critic.parameters(), lr=lr),
        loss or Wasserstein(),
        constraint or Unconstrained(),
        grad_clip=grad_clip,
    )


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def gradients(network: nn.Module) -> dict[str, Tensor | None]:
    named = network.named_parameters()
    return {name: None if p.grad is None else p.grad.clone() for name, p in named}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def global_norm(network: nn.Module) -> float:
    total = sum(float((p.grad.double() ** 2).sum()) for p in network.parameters())
    return total**0.5


def named(terms: Tensor) -> dict[str, float]:
    tags = CRITIC_TERMS if len(terms) == len(CRITIC_TERMS) else GENERATOR_TERMS
    return dict(zip(tags, terms.tolist(), strict=True))


def freshly_scored(generator: nn.Module, critic: nn.Module, real: Tensor, latent: Tensor):
    """Real and fake scores on copies, in two passes."""
    generator, critic = copy.deepcopy(generator), copy.deepcopy(critic)
    with torch.no_grad():
        return critic(real), critic(generator(latent))


class Quadratic(Constraint):
    """A penalty with a known gradient: the sum of squared weights."""

    def __init__(self, weight: float = 0.5) -> None:
        self.weight = weight
        self.seen: list[tuple[Tensor, Tensor, Draws]] = []

    def penalty(self, critic: nn.Module, real: Tensor, fake: Tensor, draws: Draws) -> Tensor:
        self.seen.append((real, fake, draws))
        return self.weight * sum((p**2).sum() for p in critic.parameters())


class Constant(Constraint):
    """A penalty of which no weight has a gradient."""

    def penalty(self, critic: nn.Module, real: Tensor, fake: Tensor, draws: Draws) -> Tensor:
        return torch.tensor(0.5)


@pytest.mark.parametrize("model", ["mlp", "dcgan"])
@pytest.mark.parametrize("before", ["nothing", "critic update"])
def test_generator_update_leaves_the_critic_untouched(model: str, before: str):
    generator, critic = networks(model)
    updates = updates_of(generator, critic)
    real, latent = batch()
    if before != "nothing":
        updates.critic_update(real, latent, DRAWS)
    state, grads = snapshot(critic), gradients(critic)
    generator_state = snapshot(generator)
    updates.generator_update(latent)
    assert same(state, snapshot(critic))
    after = gradients(critic)
    for name, gradient in grads.items():
        if gradient is None:
            assert after[name] is None
        else:
            assert torch.equal(after[name], gradient)
    assert not same(generator_state, snapshot(generator))
    assert all(p.requires_grad for p in critic.parameters())


@pytest.mark.parametrize("model", ["mlp", "dcgan"])
@pytest.mark.parametrize("before", ["nothing", "generator update"])
def test_critic_update_leaves_the_generator_untouched(model: str, before: str):
    generator, critic = networks(model)
    updates = updates_of(generator, critic)
    real, latent = batch()
    if before != "nothing":
        updates.generator_update(latent)
    state, grads = snapshot(generator), gradients(generator)
    critic_state = snapshot(critic)
    updates.critic_update(real, latent, DRAWS)
    assert same(state, snapshot(generator))
    after = gradients(generator)
    for name, gradient in grads.items():
        if gradient is None:
            assert after[name] is None
        else:
            assert torch.equal(after[name], gradient)
    assert not same(critic_state, snapshot(critic))
    assert all(p.requires_grad for p in generator.parameters())


def test_updates_are_free_of_each_others_optimizer_state():
    generator, critic = networks("mlp")
    updates = updates_of(generator, critic, make=torch.optim.Adam)
    real, latent = batch()
    updates.critic_update(real, latent, DRAWS)
    assert not updates.generator_optimizer.state
    critic_steps = [float(s["step"]) for s in updates.critic_optimizer.state.values()]
    updates.generator_update(latent)
    assert [float(s["step"]) for s in updates.critic_optimizer.state.values()] == critic_steps


def test_batch_norm_statistics_follow_each_networks_own_updates():
    generator, critic = networks("dcgan")
    updates = updates_of(generator, critic)
    real, latent = batch()
    updates.critic_update(real, latent, DRAWS)
    counted = [m.num_batches_tracked for m in generator.modules() if hasattr(m, "running_mean")]
    assert counted and all(int(n) == 0 for n in counted)
    updates.generator_update(latent)
    assert all(int(n) == 1 for n in counted)


@pytest.mark.parametrize("loss", [Wasserstein(), Hinge(), Gan()])
@pytest.mark.parametrize("model", ["mlp", "dcgan"])
def test_in_bfloat16_one_pass_through_the_critic_equals_two(model: str, loss: Loss):
    generator, critic = networks(model, norm="none")
    apart = copy.deepcopy(critic)
    real, latent = batch()
    with torch.autocast("cpu", torch.bfloat16):
        fake = generator(latent).detach()
        scores = apart(real).float(), apart(fake).float()
    sum(loss.critic(*scores)).backward()
    weights = [TrainedNetwork(network, flat=True, bf16=True) for network in (generator, critic)]
    optimizers = [torch.optim.SGD(each.optimizer_parameters, lr=1.0) for each in weights]
    passes = []
    weights[1].forward_network.register_forward_hook(lambda *call: passes.append(len(call[-1])))
    updates = Updates(*weights, *optimizers, loss, Unconstrained())
    updates.critic_update(real, latent, DRAWS)
    assert passes == [2 * BATCH]
    for mine, theirs in zip(critic.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(theirs - mine, theirs.grad, rtol=0.02, atol=2e-3)


def test_batch_norm_sees_real_and_fake_apart():
    generator, critic = networks("dcgan")
    real, latent = batch()
    real_scores, fake_scores = freshly_scored(generator, critic, real, latent)
    terms = named(updates_of(generator, critic).critic_update(real, latent, DRAWS))
    assert terms["critic/loss_real"] == pytest.approx(-float(real_scores.mean()), abs=1e-6)
    assert terms["critic/loss_fake"] == pytest.approx(float(fake_scores.mean()), abs=1e-6)


def textbook(
    generator: nn.Module,
    critic: nn.Module,
    make: Make,
    lr: float,
    clip: float,
    batches: list[tuple[Tensor, Tensor]],
    last_latent: Tensor,
) -> None:
    """Algorithm 1 as it stands on the page, on modules that are changed in place."""
    critic_optimizer = make(critic.parameters(), lr=lr)
    generator_optimizer = make(generator.parameters(), lr=lr)
    for real, latent in batches:
        critic_optimizer.zero_grad()
        fake = generator(latent).detach()
        (-(critic(real).mean() - critic(fake).mean())).backward()
        critic_optimizer.step()
        for parameter in critic.parameters():
            parameter.data.clamp_(-clip, clip)
    for parameter in critic.parameters():
        parameter.requires_grad_(False)
    generator_optimizer.zero_grad()
    (-critic(generator(last_latent)).mean()).backward()
    generator_optimizer.step()
    for parameter in critic.parameters():
        parameter.requires_grad_(True)


def rmsprop(parameters: object, lr: float) -> torch.optim.Optimizer:
    # A large eps, lest rounding be amplified where a gradient is zero.
    return torch.optim.RMSprop(parameters, lr=lr, eps=1e-2)


@pytest.mark.parametrize("make", [torch.optim.SGD, rmsprop], ids=["sgd", "rmsprop"])
@pytest.mark.parametrize("model", ["mlp", "dcgan"])
@pytest.mark.parametrize("n_critic", [1, 3])
def test_updates_are_the_papers_algorithm(model: str, make: Make, n_critic: int):
    generator, critic = networks(model)
    other_generator, other_critic = copy.deepcopy(generator), copy.deepcopy(critic)
    noise = [Draws(0, Stream.CRITIC_NOISE, step).normal((BATCH, LATENT), CPU) for step in range(4)]
    batches = [(batch()[0] * (0.5 + 0.1 * step), noise[step]) for step in range(n_critic)]
    updates = updates_of(generator, critic, constraint=WeightClipping(0.1), make=make, lr=0.05)
    for real, latent in batches:
        updates.critic_update(real, latent, DRAWS)
    updates.generator_update(noise[3])
    textbook(other_generator, other_critic, make, 0.05, 0.1, batches, noise[3])
    for mine, theirs in ((generator, other_generator), (critic, other_critic)):
        pairs = zip(mine.named_parameters(), theirs.parameters(), strict=True)
        for (name, parameter), other in pairs:
            torch.testing.assert_close(parameter, other, rtol=1e-4, atol=2e-6, msg=name)
    clipped = torch.cat([p.detach().flatten() for p in critic.parameters()])
    assert clipped.abs().max() <= torch.tensor(0.1)


@pytest.mark.parametrize("model", ["mlp", "dcgan"])
@pytest.mark.parametrize("loss", [Wasserstein(), Hinge(), Gan(), Gan(saturating=True)])
def test_critic_terms_are_what_their_names_say(model: str, loss: Loss):
    generator, critic = networks(model)
    real, latent = batch()
    real_scores, fake_scores = freshly_scored(generator, critic, real, latent)
    expected_real, expected_fake = (float(t) for t in loss.critic(real_scores, fake_scores))
    terms = named(updates_of(generator, critic, loss=loss).critic_update(real, latent, DRAWS))
    estimate = float(real_scores.mean() - fake_scores.mean())
    assert terms["critic/wasserstein"] == pytest.approx(estimate, abs=1e-6)
    assert terms["critic/loss_real"] == pytest.approx(expected_real, abs=1e-6)
    assert terms["critic/loss_fake"] == pytest.approx(expected_fake, abs=1e-6)
    assert terms["critic/loss"] == pytest.approx(expected_real + expected_fake, abs=1e-6)
    assert terms["critic/penalty"] == 0
    # Gradients stay until the next update: what is reported is of before the optimizer.
    assert terms["critic/grad_norm"] == pytest.approx(global_norm(critic), rel=1e-5)


@pytest.mark.parametrize("loss", [Wasserstein(), Gan(), Gan(saturating=True)])
def test_generator_terms_are_what_their_names_say(loss: Loss):
    generator, critic = networks("dcgan")
    real, latent = batch()
    _, fake_scores = freshly_scored(generator, critic, real, latent)
    terms = named(updates_of(generator, critic, loss=loss).generator_update(latent))
    assert terms["generator/loss"] == pytest.approx(float(loss.generator(fake_scores)), abs=1e-6)
    assert terms["generator/grad_norm"] == pytest.approx(global_norm(generator), rel=1e-5)


def test_terms_hold_no_graph():
    generator, critic = networks("mlp")
    updates = updates_of(generator, critic, constraint=Quadratic())
    real, latent = batch()
    assert not updates.critic_update(real, latent, DRAWS).requires_grad
    assert not updates.generator_update(latent).requires_grad


def test_gradients_do_not_add_up_over_updates():
    generator, critic = networks("mlp")
    updates = updates_of(generator, critic, lr=1e-12)
    real, latent = batch()
    first = named(updates.critic_update(real, latent, DRAWS))
    second = named(updates.critic_update(real, latent, DRAWS))
    assert second["critic/grad_norm"] == pytest.approx(first["critic/grad_norm"], rel=1e-3)
    first = named(updates.generator_update(latent))
    second = named(updates.generator_update(latent))
    assert second["generator/grad_norm"] == pytest.approx(first["generator/grad_norm"], rel=1e-3)


def test_penalty_is_part_of_the_one_loss_and_backward(monkeypatch: pytest.MonkeyPatch):
    generator, critic = networks("mlp")
    bf16_copy = copy.deepcopy(critic)
    real, latent = batch()
    fake = generator(latent).detach()
    squares = sum((p**2).sum() for p in bf16_copy.parameters())
    expected = -bf16_copy(real).mean() + bf16_copy(fake).mean() + 0.5 * squares
    expected.backward()
    constraint = Quadratic()
    updates = updates_of(generator, critic, constraint=constraint, lr=0.1)
    passes = []
    backward = Tensor.backward
    monkeypatch.setattr(Tensor, "backward", lambda *a, **k: (passes.append(1), backward(*a, **k)))
    terms = named(updates.critic_update(real, latent, DRAWS))
    assert passes == [1]
    assert terms["critic/penalty"] == pytest.approx(0.5 * squares.item(), rel=1e-5)
    assert terms["critic/loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert terms["critic/grad_norm"] == pytest.approx(global_norm(bf16_copy), rel=1e-4)
    for mine, theirs in zip(critic.parameters(), bf16_copy.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs - 0.1 * theirs.grad, rtol=1e-4, atol=1e-6)


def penalised(*, flat: bool, in_tf32: bool, constraint: Constraint) -> Updates:
    generator, critic = networks("dcgan", norm="none")
    weights = [TrainedNetwork(network, flat=flat, bf16=True) for network in (generator, critic)]
    optimizers = [torch.optim.SGD(each.optimizer_parameters, lr=0.01) for each in weights]
    updates = Updates(*weights, *optimizers, Wasserstein(), constraint)
    assert not updates.penalty_in_tf32
    updates.penalty_in_tf32 = in_tf32
    return updates


@pytest.mark.parametrize("flat", [True, False], ids=["bf16 copy", "autocast"])
@pytest.mark.parametrize("constraint", [GradientPenalty(), Quadratic(), Constant()])
def test_a_penalty_under_tf32_has_the_gradient_of_the_one_loss(constraint: Constraint, flat: bool):
    real, latent = batch()
    joint, apart = (
        penalised(flat=flat, in_tf32=in_tf32, constraint=constraint) for in_tf32 in (False, True)
    )
    terms = [updates.critic_update(real, latent, DRAWS) for updates in (joint, apart)]
    torch.testing.assert_close(*terms, rtol=1e-5, atol=1e-6)
    for one, other in zip(
        joint.trained_critic.optimizer_parameters,
        apart.trained_critic.optimizer_parameters,
        strict=True,
    ):
        scale = float(one.grad.abs().max())
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-5 * scale)


def test_only_the_penalty_runs_in_tf32():
    """Its forward and its backward pass, and neither pass of the loss."""
    use_ieee_float32()
    updates = penalised(flat=True, in_tf32=True, constraint=GradientPenalty())
    seen: dict[str, list[str]] = {"forward": [], "backward": []}
    penalties: dict[str, list[str]] = {"forward": [], "backward": []}

    def hear(network: nn.Module, heard: dict[str, list[str]]) -> None:
        def note(kind: str) -> None:
            heard[kind].append(torch.backends.cudnn.conv.fp32_precision)

        def forward(module: nn.Module, inputs: object, output: Tensor) -> None:
            note("forward")
            output.register_hook(lambda gradient: note("backward"))

        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(forward)

    critic = updates.trained_critic
    assert critic.forward_network is not critic.network
    hear(critic.forward_network, seen)
    hear(critic.network, penalties)
    updates.critic_update(*batch(), DRAWS)
    for heard, precision in ((seen, "ieee"), (penalties, "tf32")):
        assert all(set(values) == {precision} for values in heard.values())
    assert torch.backends.cudnn.conv.fp32_precision == "ieee"


def test_penalty_sees_the_batch_its_fakes_and_its_draws():
    generator, critic = networks("dcgan")
    real, latent = batch()
    with torch.no_grad():
        expected = copy.deepcopy(generator)(latent)
    constraint = Quadratic()
    updates_of(generator, critic, constraint=constraint).critic_update(real, latent, DRAWS)
    ((seen_real, seen_fake, seen_draws),) = constraint.seen
    assert torch.equal(seen_real, real)
    torch.testing.assert_close(seen_fake, expected)
    assert not seen_fake.requires_grad
    assert seen_draws == DRAWS


def test_constraint_acts_after_the_step():
    order = []

    class Noted(Constraint):
        def penalty(self, *_: object) -> None:
            order.append("penalty")

        def after_step(self, critic: nn.Module) -> None:
            order.append("after_step")

    class NotedSGD(torch.optim.SGD):
        def step(self, *a: object, **k: object) -> None:
            order.append("step")
            return super().step(*a, **k)

    generator, critic = networks("mlp")
    updates = updates_of(generator, critic, constraint=Noted(), make=NotedSGD)
    real, latent = batch()
    updates.critic_update(real, latent, DRAWS)
    assert order == ["penalty", "step", "after_step"]
    order.clear()
    updates.generator_update(latent)
    assert order == ["step"]


@pytest.mark.parametrize("model", ["mlp", "dcgan"])
def test_bfloat16_keeps_weights_and_terms_in_float32(model: str):
    generator, critic = networks(model)
    exact = updates_of(*copy.deepcopy((generator, critic)))
    updates = updates_of(generator, critic, bf16=True)
    real, latent = batch()
    terms = updates.critic_update(real, latent, DRAWS)
    assert terms.dtype == torch.float32
    torch.testing.assert_close(terms, exact.critic_update(real, latent, DRAWS), rtol=0.1, atol=0.02)
    assert updates.generator_update(latent).isfinite().all()
    for parameter in [*generator.parameters(), *critic.parameters()]:
        assert parameter.dtype == torch.float32
        assert parameter.grad.dtype == torch.float32


def test_frozen_restores_everything_also_after_an_error():
    network = networks("dcgan")[0]
    first, *others = network.parameters()
    first.requires_grad_(False)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    untracked = norms[0]
    untracked.track_running_stats = False
    network.layers[-1].eval()
    modes = [module.training for module in network.modules()]
    state = snapshot(network)
    with pytest.raises(RuntimeError), Frozen(network):
        assert not any(p.requires_grad for p in network.parameters())
        network(batch()[1])
        raise RuntimeError
    assert not first.requires_grad
    assert all(p.requires_grad for p in others)
    assert [norm.track_running_stats for norm in norms] == [False] + [True] * (len(norms) - 1)
    assert [module.training for module in network.modules()] == modes
    assert same(state, snapshot(network))


def test_frozen_batch_norm_goes_on_normalising_by_the_batch():
    network = networks("dcgan")[0]
    latent = batch()[1]
    with torch.no_grad():
        expected = copy.deepcopy(network)(latent)
        with Frozen(network):
            assert torch.equal(network(latent), expected)


def test_frozen_batch_norm_without_weights_keeps_its_statistics():
    norm = nn.BatchNorm2d(IMAGE[0], affine=False)
    before = snapshot(norm)
    with Frozen(norm):
        norm(batch()[0])
    assert same(before, snapshot(norm))
    norm(batch()[0])
    assert not same(before, snapshot(norm))


def moved(before: dict[str, Tensor], network: nn.Module) -> Tensor:
    """How far one update carried all the weights, as one vector."""
    after = network.state_dict()
    return torch.cat([(after[name] - before[name]).flatten() for name in before])


@pytest.mark.parametrize("trained", ["critic", "generator"])
def test_a_long_gradient_is_cut_in_length_and_keeps_its_direction(trained: str):
    real, latent = batch()
    steps, norms = [], []
    for longest in (None, 1e-3, 1e6):
        generator, critic = networks("mlp")
        limits = (longest, None) if trained == "critic" else (None, longest)
        updates = updates_of(generator, critic, lr=1.0, grad_clip=limits)
        network = critic if trained == "critic" else generator
        before = snapshot(network)
        terms = (
            updates.critic_update(real, latent, DRAWS)
            if trained == "critic"
            else updates.generator_update(latent)
        )
        norms.append(named(terms)[f"{trained}/grad_norm"])
        steps.append(moved(before, network))
    plain, cut, loose = steps
    # What is logged is the gradient as it came.
    assert norms[0] == norms[1] == norms[2] > 1e-2
    assert float(cut.norm()) == pytest.approx(1e-3, rel=1e-2)
    torch.testing.assert_close(cut / cut.norm(), plain / plain.norm(), atol=1e-3, rtol=0)
    assert torch.equal(loose, plain)


def test_gradients_are_cut_before_the_clipping_of_weights():
    real, latent = batch()
    generator, critic = networks("mlp")
    constraint = WeightClipping(0.01)
    updates = updates_of(generator, critic, lr=1e-3, constraint=constraint, grad_clip=(1e-6, None))
    constraint.after_step(critic)
    before = snapshot(critic)
    updates.critic_update(real, latent, DRAWS)
    assert 0 < float(moved(before, critic).norm()) < 1e-8
