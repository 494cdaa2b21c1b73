"""RMSprop, computed by one fused kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class RMSprop(torch.optim.RMSprop):
    """torch's RMSprop, computed by one fused kernel if there is no momentum.

    RMSprop is Adam with beta1 = 0 and without bias correction. The bias correction of Adam's fused
    kernel vanishes if the step count is so large that alpha ** step is 0. So the kernel is called
    with such a count. torch's RMSprop makes six passes over the weights, which on a CPU take as
    long as the matrix products of a small critic. The results equal torch's up to rounding, and the
    state dict has the same format. The kernel stores Adam's first moment in the gradient's memory,
    so `.grad` is not the gradient after a step. With momentum, or on a device without the kernel,
    torch's own step runs.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
    ) -> None:
        super().__init__(
            params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum
        )
        self._large_counts: dict[torch.device, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient. Return the loss of the closure, if any."""
        groups = self.param_groups
        if closure is not None or not all(self._fusible(group) for group in groups):
            return super().step(closure)
        for group in groups:
            self._fused_step(group)
        return None

    # This stops torch from wrapping `step` for hooks and profiler names. The package registers no
    # hooks, and the wrapper takes 5% of a small network's update.
    step.hooked = True  # type: ignore[attr-defined]

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """True if `step` skips the update when `found_inf` is 1, as torch's fused optimizers do."""
        return all(self._fusible(group) for group in self.param_groups)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this class or of torch's RMSprop."""
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            state["step"] = state["step"].to(parameter.device)

    @staticmethod
    def _fusible(group: dict[str, Any]) -> bool:
        return (
            group["momentum"] == 0
            and not group["centered"]
            and all(
                p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in group["params"]
            )
        )

    def _fused_step(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                # The count is on the device, so that a CUDA graph can increment it.
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["square_avg"] = torch.zeros_like(parameter)
        torch._foreach_add_([self.state[p]["step"] for p in parameters], 1)
        device = parameters[0].device
        if device not in self._large_counts:
            self._large_counts[device] = torch.full((), 1e9, dtype=torch.float32, device=device)
        gradients = [p.grad for p in parameters]
        torch._fused_adam_(
            parameters,
            gradients,
            gradients,
            [self.state[p]["square_avg"] for p in parameters],
            [],
            [self._large_counts[device]] * len(parameters),
            lr=group["lr"],
            beta1=0.0,
            beta2=group["alpha"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
            found_inf=getattr(self, "found_inf", None),
        )
