"""Optimizers of this package: RMSprop in one pass over memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class RMSprop(torch.optim.RMSprop):
    """torch's RMSprop; without momentum it runs as one fused kernel.

    RMSprop is Adam with a first beta of 0 and without bias correction. Adam's fused kernel applies
    no correction when its step count is so large that alpha ** step is 0, so it is given such a
    count. torch's RMSprop makes six passes over all weights, which on a CPU costs as much as the
    matrix products of a small critic. Results are equal up to rounding; state and checkpoints are
    torch's. The kernel's first moment is the gradient, in the gradient's memory, so a step
    overwrites the gradient. With momentum, or on a device without the kernel, torch's step runs.
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
        self._huge_steps: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        groups = self.param_groups
        if closure is not None or not all(self._fusible(group) for group in groups):
            return super().step(closure)
        for group in groups:
            self._fused_step(group)
        return None

    # This keeps torch from wrapping `step` for hooks, which nothing here registers, and for a name
    # in traces: the wrapper takes a twentieth of a small network's update.
    step.hooked = True  # type: ignore[attr-defined]

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether `step` changes nothing when `found_inf` is 1, as torch's fused optimizers do."""
        return all(self._fusible(group) for group in self.param_groups)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class or of torch's RMSprop."""
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            state["step"] = state["step"].to(parameter.device)
        self._huge_steps.clear()

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
                # On the device, so that a CUDA graph can increase it.
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["square_avg"] = torch.zeros_like(parameter)
            state["step"] += 1
            if parameter not in self._huge_steps:
                huge = torch.full((), 1e9, dtype=torch.float32, device=parameter.device)
                self._huge_steps[parameter] = huge
        gradients = [p.grad for p in parameters]
        torch._fused_adam_(
            parameters,
            gradients,
            gradients,
            [self.state[p]["square_avg"] for p in parameters],
            [],
            [self._huge_steps[p] for p in parameters],
            lr=group["lr"],
            beta1=0.0,
            beta2=group["alpha"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
            found_inf=getattr(self, "found_inf", None),
        )
