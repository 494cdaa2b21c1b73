"""A network with its flat weights and its bfloat16 copy."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wgan_cli.acceleration.bf16_copy import bf16_copy_of
from wgan_cli.acceleration.direct_gradients import DirectGradients, direct_copy_of
from wgan_cli.acceleration.flat_optimizer_state import join_state, split_state
from wgan_cli.acceleration.frozen import Frozen
from wgan_cli.flat_tensors import FlatBuffer, flatten_in_place
from wgan_cli.models.conditional import with_labels
from wgan_cli.models.precision import to_float32
from wgan_cli.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

# The largest number of values that can follow the gradients in a message to other processes.
ROOM = 16


class TrainedNetwork:
    """A float32 network, the module that runs its forward passes, and its optimizer's parameters.

    With `flat`, the network's parameters are views of one tensor (n,), and `optimizer_parameters`
    holds that tensor, divided into at most `pieces` parameters. An elementwise optimizer then needs
    one kernel instead of one per layer. A network is flattened only if all its parameters are
    float32 on one device. Otherwise `optimizer_parameters` holds the network's parameters.

    With `bf16`, forward passes run in bfloat16. They use a bfloat16 copy if the network is flat,
    `bf16_copy` is true and its layers support a copy; otherwise they use autocast.
    With `direct`, a flat network without `bf16` uses a copy whose linear layers write their
    gradients where the optimizer reads them, which is faster on CPUs. `forward_network` is the copy
    or the network itself, and `copies` are the copy's bfloat16 weights. In the context `frozen`,
    forward passes change no statistics and the weights get no gradients.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        flat: bool = False,
        bf16: bool = False,
        bf16_copy: bool = True,
        direct: bool = False,
        pieces: int = 1,
    ) -> None:
        self.network = network
        self.bf16 = bf16
        own = {name: p for name, p in network.named_parameters() if p.requires_grad}
        flat = flat and {p.dtype for p in own.values()} == {torch.float32}
        flat = flat and len({p.device for p in own.values()}) == 1
        bf16_network = bf16_copy_of(network) if flat and bf16 and bf16_copy else None
        direct_network = direct_copy_of(network) if flat and direct and not bf16 else None
        self._has_bf16_copy = bf16_network is not None
        copies = [copy for copy in (bf16_network, direct_network) if copy is not None]
        self.forward_network = copies[0] if copies else network
        self.frozen = Frozen(self.forward_network)
        forward = dict(self.forward_network.named_parameters())
        # Weights that have a bfloat16 copy come first, so that one kernel refreshes all copies.
        names = sorted(own, key=lambda name: forward[name] is own[name])
        self._indices = [list(own).index(name) for name in names]
        self._own = [own[name] for name in names]
        self._forward = [forward[name] for name in names]
        self.copies = [p for p, q in zip(self._forward, self._own, strict=True) if p is not q]
        self._copied = self._own[: len(self.copies)]
        self._flat: FlatBuffer | None = None
        self._direct: DirectGradients | None = None
        self.optimizer_parameters = list(own.values())
        if flat:
            self._flat = flatten_in_place(self._own)
            self._gradients = FlatBuffer(self._own, room=ROOM)
            # The pieces begin at multiples of 16 bytes, so that kernels read four numbers at once.
            size = 4 * math.ceil(len(self._flat.flat) / (4 * pieces))
            weights, gradients = (each.flat.split(size) for each in (self._flat, self._gradients))
            self.optimizer_parameters = [nn.Parameter(piece) for piece in weights]
            for parameter, gradient in zip(self.optimizer_parameters, gradients, strict=True):
                parameter.grad = gradient
            totals = dict(zip(self._own, self._gradients.parts, strict=True))
            self._direct = DirectGradients(self.forward_network, totals)
            self._gathered = [weight for weight in self._forward if weight not in self._direct]
            self._parts = [totals[own] for own in self._own if own not in self._direct]
        if self.copies:
            self._flat_copies = flatten_in_place(self.copies)
        self._joins_gradients = bool(self.copies) and self.copies[0].is_cuda
        # BatchNorm is the only layer of a bfloat16 copy that mixes the rows of a batch.
        batch_norm = any(isinstance(m, _BatchNorm) for m in network.modules())
        self.rows_independent = self._has_bf16_copy and not batch_norm

    @classmethod
    def of(cls, network: TrainedNetwork | nn.Module) -> TrainedNetwork:
        """Wrap a plain module as a `TrainedNetwork`. Return a `TrainedNetwork` unchanged."""
        return network if isinstance(network, cls) else cls(network)  # type: ignore[arg-type]

    def __call__(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """Run a forward pass in the chosen precision. The output may be bfloat16."""
        if self._has_bf16_copy:
            inputs = inputs.bfloat16()
        elif inputs.dtype == torch.bfloat16:
            inputs = inputs.float()
        autocast = self.bf16 and not self._has_bf16_copy
        with torch.autocast(inputs.device.type, torch.bfloat16) if autocast else nullcontext():
            return with_labels(self.forward_network, labels)(inputs)

    def score(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return a critic's scores (batch,), converted to float32 if they have less precision."""
        return to_float32(self(samples, labels))

    def score_both(
        self, real: Tensor, fake: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return a critic's scores of the real and of the fake samples, each (batch,).

        A bfloat16 copy without BatchNorm computes both in one pass. Otherwise two passes are made,
        so that rounding errors are those of a plain training loop. This matters when the terms of
        real and fake samples cancel: RMSprop and Adam then take full steps along the remaining
        rounding error.
        """
        if not self.rows_independent:
            return self.score(real, labels), self.score(fake, labels)
        labels = None if labels is None else torch.cat([labels, labels])
        # Use the memory layout of the fakes, because the layers use it too.
        both = torch.cat([torch.empty_like(fake).copy_(real.view_as(fake)), fake])
        real_scores, fake_scores = self.score(both, labels).chunk(2)
        return real_scores, fake_scores

    def log_autocast(self, name: str) -> None:
        """Log a line if the network uses autocast, which is slower than a bfloat16 copy."""
        if self.bf16 and not self._has_bf16_copy:
            log.info(
                "The %s runs under autocast, which gains less than bf16 weights do: those need a"
                " network with the traits bf16_copy and weights_in_place, a constraint with"
                " weights_in_place, and an elementwise optimizer.",
                name,
            )

    def compile(self, name: str, inputs: Tensor, labels: Tensor | None = None) -> None:
        """Compile `forward_network`, and try a forward and a backward pass on these inputs.

        If this fails, log the reason and continue uncompiled. Out-of-memory errors are passed on.
        """
        buffers = [(buffer, buffer.clone()) for buffer in self.forward_network.buffers()]
        self.forward_network.compile()
        try:
            self(inputs, labels).sum().backward()
        # A compiler can raise any error, for example if a header file is missing.
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
        """True if `forward_network` is compiled."""
        return self.forward_network._compiled_call_impl is not None

    def zero_grad(self) -> None:
        """Delete the gradients. Call this before every backward pass."""
        for parameter in (*self._forward, *self._copied):
            parameter.grad = None
        if self._direct is not None:
            self._direct.clear()

    @property
    def gradients(self) -> list[Tensor]:
        """The gradients for the optimizer: one tensor (n,) if the network is flat."""
        if self._flat is not None:
            return [self._gradients.flat]
        return [p.grad for p in self.optimizer_parameters if p.grad is not None]

    @torch.no_grad()
    def gather_gradients(self) -> None:
        """Copy the gradients of a backward pass to the optimizer's parameters."""
        if self._direct is None:
            return
        parts, gradients = self._parts, [p.grad for p in self._gathered]
        for part, gradient in zip(parts, gradients, strict=True):
            if gradient is None:
                part.zero_()
        count = self._gather_bfloat16(gradients)
        _foreach(torch._foreach_copy_, parts[count:], gradients[count:])
        # A constraint's penalty has gradients in the float32 network. Add these gradients.
        _foreach(torch._foreach_add_, parts[: len(self._copied)], [p.grad for p in self._copied])
        self._direct.finish()

    def _gather_bfloat16(self, gradients: Sequence[Tensor | None]) -> int:
        """On CUDA, copy the gradients of the bfloat16 copy; return how many were copied.

        Without this, each gradient needs a kernel of its own, which converts it to float32.
        """
        count = len(self.copies)
        if not self._joins_gradients or any(g is None for g in gradients[:count]):
            return 0
        pairs = zip(gradients[:count], self._flat_copies.parts, strict=True)
        joined = torch.cat([_in_memory_order(g, like) for g, like in pairs if g is not None])
        self._gradients.flat[: len(joined)].copy_(joined)
        return count

    @torch.no_grad()
    def gradient_message(self, numbers: int) -> Tensor:
        """Return a tensor (n,) of the gradients, with space for `numbers` values at its end.

        `numbers` is at most `ROOM`. For a flat network, the tensor shares the memory of the
        gradients. Otherwise it is a copy with zeros for missing gradients, followed by a flag for
        each parameter: 1 if its gradient exists. The flags are needed because an optimizer skips a
        missing gradient, but may change a weight whose gradient is zero.
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
        """Copy the averaged gradients of a `gradient_message` to the parameters.

        A flat network needs no copy, because the message shares the memory of its gradients.
        """
        if self._flat is not None:
            return
        like = FlatBuffer(self.optimizer_parameters)
        parts, flags = like.split(message), message[len(like.flat) :]
        for part, parameter, exists in zip(parts, self.optimizer_parameters, flags, strict=False):
            if parameter.grad is not None:
                parameter.grad.copy_(part)
            elif exists > 0:
                # Another process has a gradient for a parameter that has none in this process.
                parameter.grad = part.clone()

    @torch.no_grad()
    def refresh_bf16_copy(self) -> None:
        """Copy the rounded weights into the bfloat16 copy. Call this after every weight change."""
        if self.copies and self._flat is not None:
            flat = self._flat_copies.flat
            flat.copy_(self._flat.flat[: len(flat)])

    def split_optimizer_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state of a flat network's optimizer with one entry per network parameter."""
        return state if self._flat is None else split_state(state, self._flat, self._indices)

    def join_optimizer_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Do the reverse of `split_optimizer_state`: return the state for the flat parameters.

        Raise KeyError, ValueError or RuntimeError if the state belongs to another network.
        """
        if self._flat is None:
            return state
        sizes = [len(piece) for piece in self.optimizer_parameters]
        return join_state(state, self._flat, self._indices, sizes)


def _in_memory_order(tensor: Tensor, like: Tensor) -> Tensor:
    """Return the elements of a tensor (n,) in the order in which `like` has them in memory."""
    if tensor.stride() != like.stride():
        tensor = torch.empty_like(like).copy_(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))


def _foreach(
    kernel: Callable[[list[Tensor], list[Tensor]], object],
    targets: Sequence[Tensor],
    sources: Sequence[Tensor | None],
) -> None:
    """Apply the kernel to all pairs of target and source, except where the source is None."""
    pairs = [(t, s) for t, s in zip(targets, sources, strict=True) if s is not None]
    if pairs:
        kernel(*map(list, zip(*pairs, strict=True)))
