"""RMSprop as one fused kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class RMSprop(torch.optim.RMSprop):
    """torch's RMSprop, computed by one fused kernel if there is no momentum.

    RMSprop is Adam with a first beta of 0 and without bias correction. Adam's fused kernel has no
    bias correction at a step count so large that alpha ** step is 0; so it is called with such a
    count. torch's RMSprop makes six passes over the weights, which on a CPU takes as long as the
    matrix products of a small critic. The results are equal up to rounding, and the state dict is
    torch's. The kernel uses the gradient's memory for Adam's first moment: after a step, `.grad`
    is not the gradient any more. With momentum, or on a device without the kernel, torch's step
    runs.
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
        self._large_counts: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        groups = self.param_groups
        if closure is not None or not all(self._fusible(group) for group in groups):
            return super().step(closure)
        for group in groups:
            self._fused_step(group)
        return None

    # This keeps torch from wrapping `step` for hooks and profiler names. Nobody registers hooks
    # here, and the wrapper takes 5% of a small network's update.
    step.hooked = True  # type: ignore[attr-defined]

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether `step` obeys `found_inf` as torch's fused optimizers do: with 1, no change."""
        return all(self._fusible(group) for group in self.param_groups)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of this class or of torch's RMSprop."""
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            state["step"] = state["step"].to(parameter.device)
        self._large_counts.clear()

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
                # On the device, so that a CUDA graph can increment it.
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["square_avg"] = torch.zeros_like(parameter)
            state["step"] += 1
            if parameter not in self._large_counts:
                large = torch.full((), 1e9, dtype=torch.float32, device=parameter.device)
                self._large_counts[parameter] = large
        gradients = [p.grad for p in parameters]
        torch._fused_adam_(
            parameters,
            gradients,
            gradients,
            [self.state[p]["square_avg"] for p in parameters],
            [],
            [self._large_counts[p] for p in parameters],
            lr=group["lr"],
            beta1=0.0,
            beta2=group["alpha"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
            found_inf=getattr(self, "found_inf", None),
        )
