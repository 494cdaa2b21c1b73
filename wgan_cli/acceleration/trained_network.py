"""A network's weights, where its passes and its optimizer meet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wgan_cli.acceleration.bf16_copy import bf16_copy_of
from wgan_cli.flat_tensors import FlatBuffer, flatten_in_place
from wgan_cli.models.conditional import with_labels
from wgan_cli.training.failures import is_out_of_memory

log = logging.getLogger(__name__)

# All else that torch's optimizers keep as tensors has the shape of the weights.
_COUNT = "step"
# So many numbers find a place after the gradients in a message.
ROOM = 16


class TrainedNetwork:
    """A network in float32, what its passes run on, and what its optimizer moves.

    With `joined`, `optimised` is one parameter (n,), of whose memory the network's are views: one
    kernel then does what would be one a layer. This suits optimizers that do the same to every
    weight; networks that are not all float32 on one device are left apart, and `optimised` is their
    parameters. With `bf16` passes run in bfloat16: of a joined network on its twin, if it can have
    one, else under autocast.
    """

    def __init__(self, network: nn.Module, *, joined: bool = False, bf16: bool = False) -> None:
        self.network = network
        self.bf16 = bf16
        own = {name: p for name, p in network.named_parameters() if p.requires_grad}
        joined = joined and {p.dtype for p in own.values()} == {torch.float32}
        joined = joined and len({p.device for p in own.values()}) == 1
        twin = bf16_copy_of(network) if joined and bf16 else None
        self.passes = network if twin is None else twin
        passing = dict(self.passes.named_parameters())
        # Those that are rounded come first, so that one copy rounds them all.
        self._names = sorted(own, key=lambda name: passing[name] is own[name])
        self._order = {name: place for place, name in enumerate(own)}
        self._own = [own[name] for name in self._names]
        self._passing = [passing[name] for name in self._names]
        self._rounded = [p for p, q in zip(self._passing, self._own, strict=True) if p is not q]
        self._also = self._own[: len(self._rounded)]
        self._block: FlatBuffer | None = None
        self.optimised = list(own.values())
        if joined:
            self._block, self._gradients = (
                flatten_in_place(self._own),
                FlatBuffer(self._own, room=ROOM),
            )
            self.optimised = [nn.Parameter(self._block.flat)]
            self.optimised[0].grad = self._gradients.flat
        if self._rounded:
            self._twin_block = flatten_in_place(self._rounded)

    def __call__(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """A pass in the chosen precision; its result may be bfloat16."""
        run = with_labels(self.passes, labels)
        if self.passes is not self.network:
            return run(inputs.bfloat16())
        inputs = inputs.float() if inputs.dtype == torch.bfloat16 else inputs
        if not self.bf16:
            return run(inputs)
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return run(inputs)

    def mention_autocast(self, name: str) -> None:
        """Log where bf16 gains less than it could."""
        if self.bf16 and self.passes is self.network:
            log.info(
                "The %s runs under autocast, which gains less than bf16 weights do: only this"
                " package's plain networks get those, under its own optimizers and constraints.",
                name,
            )

    def compile(self, name: str, inputs: Tensor, labels: Tensor | None = None) -> None:
        """Compile the passes, tried on these inputs; where that fails, log why and do without."""
        buffers = [(buffer, buffer.clone()) for buffer in self.passes.buffers()]
        self.passes.compile()
        try:
            self(inputs, labels).sum().backward()
        # A compiler's failure can be anything, from a missing header to a defect of its own.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self.passes._compiled_call_impl = None
            reason = str(error).strip().partition("\n")[0]
            log.warning("The %s cannot be compiled (%s): it runs as it is.", name, reason)
        finally:
            self.forget_gradients()
            for buffer, before in buffers:
                buffer.copy_(before)

    @property
    def compiled(self) -> bool:
        """Whether the passes are."""
        return self.passes._compiled_call_impl is not None

    def forget_gradients(self) -> None:
        """To be called before a backward pass."""
        for parameter in self._passing:
            parameter.grad = None
        for parameter in self._also:
            parameter.grad = None

    @torch.no_grad()
    def gather_gradients(self) -> None:
        """Bring those of a backward pass to where the optimizer reads them."""
        if self._block is None:
            return
        parts = self._gradients.parts
        found = [(part, p.grad) for part, p in zip(parts, self._passing, strict=True)]
        if any(gradient is None for _, gradient in found):
            self._gradients.flat.zero_()
        _each(torch._foreach_copy_, found)
        # Of the network itself where it has a twin: what a constraint did, in float32.
        _each(
            torch._foreach_add_,
            [(part, p.grad) for part, p in zip(parts, self._also, strict=False)],
        )

    @torch.no_grad()
    def message(self, numbers: int) -> Tensor:
        """The gathered gradients and at its end room for some `numbers`, at most `ROOM`: (n,).

        Of a joined network it is their own memory. Else it is a copy, where absent gradients are
        zeros, and tells which are there: an optimizer moves weights by a gradient of zeros too.
        """
        if self._block is not None:
            return self._gradients.whole[: len(self._gradients.flat) + numbers]
        message = FlatBuffer(self.optimised, room=len(self.optimised) + numbers)
        found = zip(message.parts, self.optimised, strict=True)
        _each(torch._foreach_copy_, [(part, p.grad) for part, p in found])
        there = [float(p.grad is not None) for p in self.optimised]
        self._there(message.whole).copy_(torch.tensor(there))
        return message.whole

    @torch.no_grad()
    def take(self, message: Tensor) -> None:
        """Bring the gradients of a message to where the optimizer reads them."""
        if self._block is not None:
            return
        parts, there = FlatBuffer(self.optimised).split(message), self._there(message)
        for part, parameter, anywhere in zip(parts, self.optimised, there, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(part)
            elif anywhere > 0:
                # Another process's batch went through weights that this one's did not.
                parameter.grad = part.clone()

    def _there(self, message: Tensor) -> Tensor:
        """Of a message of gradients that are apart, how many processes have each of them."""
        size = sum(parameter.numel() for parameter in self.optimised)
        return message[size : size + len(self.optimised)]

    @torch.no_grad()
    def round(self) -> None:
        """Let the twin follow the network. To be called whenever weights changed."""
        if self._rounded and self._block is not None:
            flat = self._twin_block.flat
            flat.copy_(self._block.flat[: len(flat)])

    def tensors(self) -> list[Tensor]:
        """What an update of the network changes, before its optimizer's state."""
        return [*self.optimised, *self.network.buffers(), *self._rounded]

    def split_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """An optimizer's state with an entry a parameter of the network, as torch's have."""
        if self._block is None:
            return state
        entries: dict[int, dict[str, Any]] = {place: {} for place in self._order.values()}
        for key, value in state["state"].get(0, {}).items():
            values: Sequence[Any] = [value] * len(entries)
            if isinstance(value, Tensor):
                values = values if key == _COUNT else self._block.split(value)
                values = [each.clone() for each in values]
            for name, each in zip(self._names, values, strict=True):
                entries[self._order[name]][key] = each
        (group,) = state["param_groups"]
        return {
            "state": entries if state["state"] else {},
            "param_groups": [{**group, "params": list(entries)}],
        }

    def join_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The inverse. Raises what a state of another network raises: KeyError, ValueError, ..."""
        if self._block is None:
            return state
        (group,) = state["param_groups"]
        if group["params"] != list(range(len(self._names))):
            raise ValueError("an optimizer's state is of another network")
        joined: dict[str, Any] = {}
        for place, name in enumerate(self._names):
            for key, value in state["state"].get(self._order[name], {}).items():
                if key == _COUNT or not isinstance(value, Tensor):
                    joined.setdefault(key, value)
                else:
                    if key not in joined:
                        joined[key] = FlatBuffer(self._own)
                    joined[key].parts[place].copy_(value)
        flat = {k: v.flat if isinstance(v, FlatBuffer) else v for k, v in joined.items()}
        return {
            "state": {0: flat} if state["state"] else {},
            "param_groups": [{**group, "params": [0]}],
        }


def _each(
    kernel: Callable[[list[Tensor], list[Tensor]], object],
    pairs: Sequence[tuple[Tensor, Tensor | None]],
) -> None:
    there = [(own, other) for own, other in pairs if other is not None]
    if there:
        kernel(*map(list, zip(*there, strict=True)))
