"""Keep what an optimizer changes in every step on the device, as CUDA graphs need it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wgan_cli.out_of_memory import is_out_of_memory


def counts_on_device(optimizer: torch.optim.Optimizer) -> None:
    """Keep an optimizer's step counts on the device of its weights, if its class supports this.

    With a count on the CPU, some optimizers make every step wait for the device.
    """
    for group in optimizer.param_groups:
        if "capturable" not in group:
            continue
        group["capturable"] = True
        for parameter in group["params"]:
            count = optimizer.state.get(parameter, {}).get("step")
            if isinstance(count, Tensor):
                optimizer.state[parameter]["step"] = count.to(parameter.device, torch.float32)
    # Do not let torch warn that updates run without a graph.
    optimizer._warned_capturable_if_run_uncaptured = True


def rates_on_device(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Move the learning rates to the device, where a graph reads them."""
    for group in _groups(optimizers):
        group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)


def rates_on_host(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Make the learning rates plain numbers: with a tensor, some optimizers wait for the device."""
    for group in _groups(optimizers):
        group["lr"] = float(group["lr"])


def takes_rate_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Return True if an optimizer's step works with a learning rate that is a tensor.

    This tries a step of a copy of the optimizer, on new parameters of the same shapes.
    """
    # `copy.copy` would leave out attributes of a subclass.
    trial = object.__new__(type(optimizer))
    trial.__dict__.update(optimizer.__dict__, state=defaultdict(dict), param_groups=[])
    for group in optimizer.param_groups:
        parameters = [nn.Parameter(torch.zeros_like(p)) for p in group["params"]]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        rate = torch.tensor(float(group["lr"]), device=parameters[0].device)
        trial.param_groups.append({**group, "params": parameters, "lr": rate})
    try:
        trial.step()
    # A user's optimizer can raise any error here.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return False
    return True


def count_on_host(optimizer: torch.optim.Optimizer) -> str | None:
    """Return the name of a state tensor that is not on the weights' device; None without one.

    A graph would use the value of the recorded step for ever.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.device != parameter.device:
                return name
    return None


class HostNumbers:
    """The Python numbers in some dicts, such as the attributes of a user's optimizer.

    A graph would use the values of the recorded step for ever, so they must not change.
    """

    def __init__(self, places: Sequence[dict[str, Any]]) -> None:
        self._numbers = [
            (place, name, value)
            for place in places
            for name, value in place.items()
            if isinstance(value, int | float)
        ]

    def changed(self) -> str | None:
        """Return the name of a number that has changed since; None without one."""
        return next((name for place, name, value in self._numbers if place[name] != value), None)

    def restore(self) -> None:
        """Set all numbers to their former values."""
        for place, name, value in self._numbers:
            place[name] = value


def portable_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state dict as it would be without the functions above."""
    groups = []
    for group in state["param_groups"]:
        changed = {"lr": float(group["lr"])} if isinstance(group["lr"], Tensor) else {}
        if group.get("capturable"):
            changed["capturable"] = False
        groups.append({**group, **changed})
    return {**state, "param_groups": groups}


def _groups(optimizers: Sequence[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]
