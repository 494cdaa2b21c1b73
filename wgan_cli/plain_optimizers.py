"""Use torch's optimizers without importing torch's compiler, which takes as long as torch itself.

Torch wraps four methods of every optimizer, so that its compiler does not trace them. The first
call of such a wrapper imports the compiler. This package compiles networks only: no optimizer is
ever called inside compiled code, so the wrappers do nothing but import.
"""

from __future__ import annotations

from torch.optim import Optimizer

_WRAPPED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def unwrap_optimizers() -> None:
    """Replace these wrappers by the methods inside. Call this before an optimizer is made."""
    for name in _WRAPPED:
        wrapper = getattr(Optimizer, name)
        # Leave other wrappers, and the methods of a torch that wraps none, as they are.
        if wrapper.__globals__["__name__"] == "torch._compile":
            setattr(Optimizer, name, wrapper.__wrapped__)
