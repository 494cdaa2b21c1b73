"""Check that an optimizer can go on from a state that was loaded from a checkpoint."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from wgan_cli.out_of_memory import is_out_of_memory

# The modules of the optimizers that are tried.
_KNOWN = ("torch.optim.", "wgan_cli.")
# Settings that choose an implementation on a GPU. The trial runs the plain one on the CPU.
_IMPLEMENTATIONS = ("fused", "foreach", "capturable")


def refuse_unusable_state(optimizer: torch.optim.Optimizer) -> None:
    """Raise `ValueError` if an optimizer of torch or of this package cannot step from its state.

    `Optimizer.load_state_dict` accepts almost anything: text for a number, a missing tensor or a
    group without its rate. The error would come at the next step, in words about torch's code. So
    take a trial step on a copy of each parameter, on the CPU and with gradients of zero.
    """
    # An optimizer of the user's own may need all parameters at once.
    if not type(optimizer).__module__.startswith(_KNOWN):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            try:
                _try_step(optimizer, group, parameter)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                kind = type(error).__name__
                raise ValueError(f"its optimizer's state makes no sense ({kind})") from None


def _try_step(optimizer: torch.optim.Optimizer, group: dict[str, Any], parameter: Tensor) -> None:
    copy = torch.zeros_like(parameter, device="cpu").requires_grad_()
    copy.grad = torch.zeros_like(copy)
    state = _copied(optimizer.state.get(parameter, {}))
    plain = {key: False for key in _IMPLEMENTATIONS if key in group}
    trial: Any = object.__new__(type(optimizer))
    trial.__dict__.update(
        optimizer.__dict__,
        state=defaultdict(dict, {copy: state} if state else {}),
        param_groups=[{**_copied(group), **plain, "params": [copy]}],
    )
    trial.step()


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value.detach().cpu().clone() if isinstance(value, Tensor) else value
        for key, value in values.items()
    }
