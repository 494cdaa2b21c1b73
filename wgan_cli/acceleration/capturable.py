"""Keep what an optimizer changes in every step on the device, as CUDA graphs need it."""

from __future__ import annotations

import math
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


class HostState:
    """Numbers and tensors that a step keeps in Python, such as attributes of a user's loss.

    `places` are dicts of them; lists, tuples and dicts in these are looked through, too. A graph
    would for ever use the numbers of the recorded step, and tensors at the same addresses.
    """

    def __init__(self, places: Sequence[dict[str, Any]]) -> None:
        self._before = [(place, dict(place), _seen(place)) for place in places]

    def tensors(self) -> list[Tensor]:
        """Return the tensors, which a step may change in place."""
        return [
            value.detach()
            for _, _, seen in self._before
            for value in seen.values()
            if isinstance(value, Tensor)
        ]

    def changed(self) -> str | None:
        """Return the name of a number that has changed or a tensor that was replaced, or None."""
        for place, _, before in self._before:
            now = _seen(place)
            for name in {**before, **now}:
                if not _same(before.get(name), now.get(name)):
                    return name
        return None

    def restore(self) -> None:
        """Set all numbers to their former values."""
        for place, before, _ in self._before:
            place.update({k: v for k, v in before.items() if isinstance(v, int | float)})


def _seen(place: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers and tensors in a dict by name, also those one level deeper."""
    found = {}
    for name, value in place.items():
        inner: dict[Any, Any] = {"": value}
        if isinstance(value, dict):
            inner = value
        elif isinstance(value, list | tuple):
            inner = dict(enumerate(value))
        for key, each in inner.items():
            if isinstance(each, int | float | Tensor):
                found[f"{name}.{key}".rstrip(".")] = each
    return found


def _same(before: Any, now: Any) -> bool:
    if isinstance(before, Tensor) and isinstance(now, Tensor):
        return before.data_ptr() == now.data_ptr()
    if isinstance(before, float) and isinstance(now, float) and math.isnan(before):
        return math.isnan(now)
    return type(before) is type(now) and bool(before == now)


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
