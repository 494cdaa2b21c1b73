"""A network together with its flat weights and its bfloat16 copy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wgan_cli.acceleration.bf16_copy import bf16_copy_of
from wgan_cli.acceleration.frozen import Frozen
from wgan_cli.flat_tensors import FlatBuffer, flatten_in_place
from wgan_cli.models.precision import to_float32
from wgan_cli.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

# The only tensor in the state of torch's optimizers that does not have the shape of the weights.
_COUNT = "step"
# The most numbers that follow the gradients in a message to other processes.
ROOM = 16


class TrainedNetwork:
    """A float32 network, the module that runs its forward passes, and its optimizer's parameters.

    With `flat`, `optimizer_parameters` is one parameter (n,), and the network's parameters are
    views of its memory, so that an elementwise optimizer needs one kernel instead of one per layer.
    A network that is not all float32 on one device is not flattened; `optimizer_parameters` are
    then its own parameters.

    With `bf16`, forward passes run in bfloat16: on a bfloat16 copy if the network is flat,
    `bf16_copy` allows one and its layers can have one, otherwise under autocast. `forward_network`
    is the copy or the network itself. Inside `frozen` a forward pass changes nothing and gives the
    weights no gradients.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        flat: bool = False,
        bf16: bool = False,
        bf16_copy: bool = True,
    ) -> None:
        self.network = network
        self.bf16 = bf16
        own = {name: p for name, p in network.named_parameters() if p.requires_grad}
        flat = flat and {p.dtype for p in own.values()} == {torch.float32}
        flat = flat and len({p.device for p in own.values()}) == 1
        copy = bf16_copy_of(network) if flat and bf16 and bf16_copy else None
        self.forward_network = network if copy is None else copy
        self.frozen = Frozen(self.forward_network)
        forward = dict(self.forward_network.named_parameters())
        # Weights that have a bfloat16 copy come first, so that one kernel refreshes all copies.
        names = sorted(own, key=lambda name: forward[name] is own[name])
        self._indices = [list(own).index(name) for name in names]
        self._own = [own[name] for name in names]
        self._forward = [forward[name] for name in names]
        self._copies = [p for p, q in zip(self._forward, self._own, strict=True) if p is not q]
        self._copied = self._own[: len(self._copies)]
        self._flat: FlatBuffer | None = None
        self.optimizer_parameters = list(own.values())
        if flat:
            self._flat = flatten_in_place(self._own)
            self._gradients = FlatBuffer(self._own, room=ROOM)
            self.optimizer_parameters = [nn.Parameter(self._flat.flat)]
            self.optimizer_parameters[0].grad = self._gradients.flat
        if self._copies:
            self._flat_copies = flatten_in_place(self._copies)
        # Of the layers that a bfloat16 copy may have, only BatchNorm mixes the rows of a batch.
        batch_norm = any(isinstance(m, _BatchNorm) for m in network.modules())
        self.rows_independent = copy is not None and not batch_norm

    @classmethod
    def of(cls, network: TrainedNetwork | nn.Module) -> TrainedNetwork:
        """Wrap a plain module; return a `TrainedNetwork` as it is."""
        return network if isinstance(network, cls) else cls(network)  # type: ignore[arg-type]

    def __call__(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """A forward pass in the chosen precision. The result may be bfloat16."""
        arguments = () if labels is None else (labels,)
        has_copy = self.forward_network is not self.network
        if has_copy:
            inputs = inputs.bfloat16()
        elif inputs.dtype == torch.bfloat16:
            inputs = inputs.float()
        autocast = self.bf16 and not has_copy
        with torch.autocast(inputs.device.type, torch.bfloat16) if autocast else nullcontext():
            outputs: Tensor = self.forward_network(inputs, *arguments)
        return outputs

    def score(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        """A critic's scores (batch,), at least in float32."""
        return to_float32(self(samples, labels))

    def score_both(
        self, real: Tensor, fake: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """A critic's scores of real and fake samples: in one pass if it has a bfloat16 copy.

        In float32 it takes two passes even without BatchNorm, so that terms of real and fake cancel
        exactly as in any other loop: RMSprop and Adam make full steps of the rounding that remains.
        """
        if not self.rows_independent:
            return self.score(real, labels), self.score(fake, labels)
        labels = None if labels is None else torch.cat([labels, labels])
        # Use the fakes' memory layout, which is that of the layers.
        both = torch.cat([torch.empty_like(fake).copy_(real.view_as(fake)), fake])
        real_scores, fake_scores = self.score(both, labels).chunk(2)
        return real_scores, fake_scores

    def log_autocast(self, name: str) -> None:
        """Log if the network runs under autocast, which is slower than bfloat16 weights."""
        if self.bf16 and self.forward_network is self.network:
            log.info(
                "The %s runs under autocast, which gains less than bf16 weights do: only this"
                " package's plain networks get those, under its own optimizers and constraints.",
                name,
            )

    def compile(self, name: str, inputs: Tensor, labels: Tensor | None = None) -> None:
        """Compile the forward network and try it on these inputs; if that fails, log why."""
        buffers = [(buffer, buffer.clone()) for buffer in self.forward_network.buffers()]
        self.forward_network.compile()
        try:
            self(inputs, labels).sum().backward()
        # A compiler can fail with any error, for example for lack of a header file.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self.forward_network._compiled_call_impl = None
            reason = str(error).strip().partition("\n")[0]
            log.warning("The %s cannot be compiled (%s): it runs uncompiled.", name, reason)
        finally:
            self.zero_grad()
            for buffer, before in buffers:
                buffer.copy_(before)

    @property
    def compiled(self) -> bool:
        """Whether the forward network is compiled."""
        return self.forward_network._compiled_call_impl is not None

    def zero_grad(self) -> None:
        """Drop the gradients. Call it before every backward pass."""
        for parameter in (*self._forward, *self._copied):
            parameter.grad = None

    @torch.no_grad()
    def gather_gradients(self) -> None:
        """Copy the gradients of a backward pass to where the optimizer reads them."""
        if self._flat is None:
            return
        parts = self._gradients.parts
        gradients = [p.grad for p in self._forward]
        if any(gradient is None for gradient in gradients):
            self._gradients.flat.zero_()
        _foreach(torch._foreach_copy_, parts, gradients)
        # A constraint's penalty runs on the float32 network and leaves its gradients there.
        copied = parts[: len(self._copied)]
        _foreach(torch._foreach_add_, copied, [p.grad for p in self._copied])

    @torch.no_grad()
    def gradient_message(self, numbers: int) -> Tensor:
        """The gathered gradients, followed by room for `numbers` (at most `ROOM`): (n,).

        For a flat network this is the memory of the gradients themselves. Otherwise it is a copy
        with zeros for missing gradients, followed by a flag per parameter, 1 if its gradient
        exists: an optimizer moves a weight by a zero gradient but not by a missing one.
        """
        if self._flat is not None:
            return self._gradients.whole[: len(self._gradients.flat) + numbers]
        gradients = [p.grad for p in self.optimizer_parameters]
        message = FlatBuffer(self.optimizer_parameters, room=len(gradients) + numbers)
        _foreach(torch._foreach_copy_, message.parts, gradients)
        exist = torch.tensor([float(gradient is not None) for gradient in gradients])
        message.whole[len(message.flat) :][: len(gradients)].copy_(exist)
        return message.whole

    @torch.no_grad()
    def take_gradients(self, message: Tensor) -> None:
        """Take the gradients from a `gradient_message` that was averaged over the ranks.

        They replace the gradients that the optimizer reads. A flat network needs no copy.
        """
        if self._flat is not None:
            return
        like = FlatBuffer(self.optimizer_parameters)
        parts, flags = like.split(message), message[len(like.flat) :]
        for part, parameter, exists in zip(parts, self.optimizer_parameters, flags, strict=False):
            if parameter.grad is not None:
                parameter.grad.copy_(part)
            elif exists > 0:
                # Another process's batch reached weights that this one's did not.
                parameter.grad = part.clone()

    @torch.no_grad()
    def refresh_bf16_copy(self) -> None:
        """Round the weights into the bfloat16 copy. Call it after every change of the weights."""
        if self._copies and self._flat is not None:
            flat = self._flat_copies.flat
            flat.copy_(self._flat.flat[: len(flat)])

    def updated_tensors(self) -> list[Tensor]:
        """The tensors that an update of the network changes, without its optimizer's state."""
        return [*self.optimizer_parameters, *self.network.buffers(), *self._copies]

    def split_optimizer_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Turn the state of a flat network's optimizer into one with an entry per parameter."""
        if self._flat is None:
            return state
        entries: dict[int, dict[str, Any]] = {index: {} for index in range(len(self._own))}
        for key, value in state["state"].get(0, {}).items():
            values = [value] * len(entries) if _is_shared(key, value) else self._flat.split(value)
            for index, each in zip(self._indices, values, strict=True):
                entries[index][key] = each.clone() if isinstance(each, Tensor) else each
        (group,) = state["param_groups"]
        return {
            "state": entries if state["state"] else {},
            "param_groups": [{**group, "params": list(entries)}],
        }

    def join_optimizer_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Undo `split_optimizer_state`.

        Raise KeyError, ValueError or RuntimeError for another network's state.
        """
        if self._flat is None:
            return state
        (group,) = state["param_groups"]
        if group["params"] != list(range(len(self._own))):
            raise ValueError("an optimizer's state is of another network")
        joined: dict[str, Any] = {}
        for position, index in enumerate(self._indices):
            for key, value in state["state"].get(index, {}).items():
                if key not in joined:
                    shared = _is_shared(key, value)
                    joined[key] = value if shared else torch.zeros_like(self._flat.flat)
                if not _is_shared(key, value):
                    self._flat.split(joined[key])[position].copy_(value)
        return {
            "state": {0: joined} if state["state"] else {},
            "param_groups": [{**group, "params": [0]}],
        }


def _is_shared(key: str, value: Any) -> bool:
    """Whether all parameters have the same value in an optimizer's state, like its step count."""
    return key == _COUNT or not isinstance(value, Tensor)


def _foreach(
    kernel: Callable[[list[Tensor], list[Tensor]], object],
    targets: Sequence[Tensor],
    sources: Sequence[Tensor | None],
) -> None:
    """Apply the kernel to all pairs whose source exists."""
    pairs = [(t, s) for t, s in zip(targets, sources, strict=True) if s is not None]
    if pairs:
        kernel(*map(list, zip(*pairs, strict=True)))
