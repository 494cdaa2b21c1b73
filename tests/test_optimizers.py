import copy

import pytest
import torch

from wgan_cli.optimizers import RMSprop


def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3))
    network = network.double()
    return network, copy.deepcopy(network)


def train(network: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    torch.manual_seed(1)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 / (1 + step)
        optimizer.zero_grad()
        network(torch.randn(4, 5, dtype=torch.float64)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize(
    "settings", [{}, {"alpha": 0.9}, {"eps": 1e-3}, {"weight_decay": 0.1}, {"momentum": 0.5}]
)
def test_equals_torchs_rmsprop(settings: dict[str, float]) -> None:
    ours, theirs = networks()
    train(ours, RMSprop(ours.parameters(), lr=1e-3, **settings), 50)
    train(theirs, torch.optim.RMSprop(theirs.parameters(), lr=1e-3, **settings), 50)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


def test_goes_on_bit_for_bit_from_its_state() -> None:
    whole, cut = networks()
    optimizer = RMSprop(whole.parameters(), lr=1e-3)
    train(whole, optimizer, 3)
    state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(whole.state_dict())
    train(whole, optimizer, 3)
    cut.load_state_dict(weights)
    resumed = RMSprop(cut.parameters(), lr=1.0)
    resumed.load_state_dict(state)
    train(cut, resumed, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))


def test_its_state_loads_into_torchs() -> None:
    ours, theirs = networks()
    optimizer = RMSprop(ours.parameters(), lr=1e-3)
    train(ours, optimizer, 2)
    torch.optim.RMSprop(theirs.parameters()).load_state_dict(optimizer.state_dict())


def test_a_parameter_without_gradient_stays() -> None:
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = RMSprop([used, unused], lr=0.1)
    used.sum().backward()
    optimizer.step()
    assert unused.equal(torch.ones(2))
    assert not used.equal(torch.ones(2))


def test_loading_a_good_state_heals_a_nan_gradient() -> None:
    network, _ = networks()
    optimizer = RMSprop(network.parameters(), lr=1e-3)
    train(network, optimizer, 2)
    state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(network.state_dict())
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.step()
    network.load_state_dict(weights)
    optimizer.load_state_dict(state)
    train(network, optimizer, 2)
    assert all(parameter.isfinite().all() for parameter in network.parameters())
