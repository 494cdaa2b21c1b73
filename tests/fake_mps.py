"""A pretended Apple GPU: tensors of the CPU that say they are on mps, and refuse what mps does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

MPS, CPU = torch.device("mps", 0), torch.device("cpu")
# These accept tensors of two devices: copies, and indices that are on the CPU.
_ACROSS = (
    *("copy_", "__getitem__", "__setitem__", "__set__", "__get__"),
    "_has_compatible_shallow_copy_type",
)


class FakeMps(TorchFunctionMode):
    """Within it, `to("mps")` gives such tensors, and what is computed from them is on mps too.

    Raises TypeError where a float64 tensor would be on mps, where numpy would read one from there,
    and where the tensors of an operation are on two devices. Tensors that autograd has saved are
    not followed into the backward passes of own functions.
    """

    def __init__(self) -> None:
        super().__init__()
        self._moved = WeakTensorKeyDictionary()
        self.operations = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        # `copy.deepcopy` hands on all that it has copied so far.
        tensors = list(_tensors(args[:1] if name == "__deepcopy__" else (args, kwargs)))
        on_mps = [each for each in tensors if each in self._moved]
        if name == "__get__" and on_mps:
            owner = getattr(func, "__self__", None)
            if owner is Tensor.device:
                return MPS
            if owner in (Tensor.is_cpu, Tensor.is_mps):
                return owner is Tensor.is_mps
        target = _asked_device(name, args, kwargs)
        if target is None:
            if name == "numpy" and on_mps:
                raise TypeError("can't convert mps:0 device type tensor to numpy")
            if name not in _ACROSS and on_mps:
                there = {each in self._moved for each in tensors if each.dim() > 0}
                if len(there) > 1:
                    raise TypeError(f"{name}: tensors on mps and on the CPU")
            result = func(*args, **kwargs)
            moved = bool(on_mps) and name != "__set__"
            if name == "__set__" and len(tensors) == 2:
                self._mark(tensors[0], moved=tensors[1] in self._moved)
        else:
            args = [CPU if _is_mps(each) else each for each in args]
            kwargs = {key: CPU if _is_mps(value) else value for key, value in kwargs.items()}
            moved = target.type == "mps"
            result = func(*args, **kwargs)
            # `to` returns the same tensor where the device is the same.
            if any(result is each for each in tensors) and moved != (result in self._moved):
                result = result.clone()
        if moved:
            self.operations += 1
        for each in _tensors(result):
            if target is not None or each not in self._moved:
                self._mark(each, moved=moved)
        return result

    def follow(self, tensor: Tensor, other: Tensor) -> Tensor:
        """Put `tensor` where `other` is; return it."""
        self._mark(tensor, moved=other in self._moved)
        return tensor

    def _mark(self, tensor: Tensor, *, moved: bool) -> None:
        if not moved:
            self._moved.pop(tensor, None)
        elif tensor.dtype == torch.float64:
            raise TypeError("the MPS framework doesn't support float64")
        else:
            self._moved[tensor] = True


def _tensors(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, dict):
        yield from _tensors(list(node.values()))
    elif isinstance(node, list | tuple):
        for each in node:
            yield from _tensors(each)


def _is_mps(value: Any) -> bool:
    return (isinstance(value, torch.device) and value.type == "mps") or value == "mps"


def _asked_device(name: str, args: Any, kwargs: Any) -> torch.device | None:
    """The device that a factory or a move names; None if it names none."""
    if name == "cpu":
        return CPU
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    if name == "to":
        for each in args[1:]:
            if isinstance(each, torch.device) or each in ("cpu", "mps"):
                return torch.device(each)
    return None
