"""AdamW whose moments of some weights live in a small space, given by a projector of each weight.

Sources: GaLore (arXiv 2403.03507, Algorithm 2), Fira (arXiv 2410.01623, Algorithm 1), APOLLO (arXiv 2412.05270,
Algorithm 1). As in `pytorch_optimizer`, eps is added to the root of the second moment before its bias is corrected.
Weight decay is decoupled and comes first, as in PyTorch's AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from rosa_bench.optim.base import ParameterGroup

State = dict[str, Tensor]
GROWTH = 1.01  # largest growth of a norm from one step to the next; both papers' gamma
TINY = 1e-8  # added to norms that divide, as in `pytorch_optimizer`

# From a tall gradient, its projection, Adam's direction in the small space, the projector and the state: the update.
Rule = Callable[[Tensor, Tensor, Tensor, Tensor, State], Tensor]


def low_rank_update(_gradient: Tensor, _low: Tensor, direction: Tensor, projector: Tensor, _state: State) -> Tensor:
    """GaLore: Adam's direction, carried back to the weight's space."""
    return direction @ projector.mT


def with_rest(gradient: Tensor, low: Tensor, direction: Tensor, projector: Tensor, state: State) -> Tensor:
    """Fira: GaLore's update, and what the projector leaves out, scaled row by row as Adam scaled the projection."""
    rest = (gradient - low @ projector.mT) * _ratio(direction, low, dim=-1)
    return direction @ projector.mT + limited(rest, state)


def by_channel(gradient: Tensor, low: Tensor, direction: Tensor, _projector: Tensor, state: State) -> Tensor:
    """APOLLO: the whole gradient, scaled row by row as Adam scaled its projection."""
    return limited(gradient * _ratio(direction, low, dim=-1), state)


def by_tensor(gradient: Tensor, low: Tensor, direction: Tensor, _projector: Tensor, state: State) -> Tensor:
    """APOLLO-Mini: the whole gradient, with one scale for the whole weight."""
    return limited(gradient * _ratio(direction, low, dim=(-2, -1)), state)


RULES: dict[str, Rule] = {"galore": low_rank_update, "fira": with_rest, "channel": by_channel, "tensor": by_tensor}


def limited(update: Tensor, state: State) -> Tensor:
    """Shrink an update whose norm grew by more than `GROWTH` since the last step. The first one is not limited.

    Each weight of a stack has its own norm, so it trains as it would alone.
    """
    norm, last = vector_norm(update, dim=(-2, -1)), state["last_norm"]
    growth = torch.where(last > 0, norm / (last + TINY), torch.ones_like(norm))
    shrink = growth.clamp(min=GROWTH) / GROWTH
    last.copy_(norm / shrink)
    return update / shrink[..., None, None]


class ProjectedAdamW(torch.optim.AdamW):
    """AdamW. Groups with ``projectors`` (one for each parameter) and ``transposed`` follow ``rule``.

    Their moments are (long, r) instead of the weight's shape. They are on the weight's device, which makes the step,
    wherever its projector is. All work is on tensors of fixed shapes, so a CUDA graph can capture the step.
    """

    def __init__(self, groups: list[dict[str, Any]], *, rule: str, scale: float):
        super().__init__(groups)
        self.rule, self.scale = RULES[rule], scale

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load moments and settings. Projectors are the model's, and stay: loaded ones would be copies."""
        own = [group.get("projectors") for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, projectors in zip(self.param_groups, own, strict=True):
            if projectors is not None:
                group["projectors"] = projectors

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Make one step. The gradients of projected weights are freed, and AdamW passes over weights without one."""
        for group in self.param_groups:
            for weight, projector, transposed in zip(
                group["params"], group.get("projectors", ()), group.get("transposed", ()), strict=False
            ):
                if weight.grad is not None:
                    near = projector.to(weight.device)
                    self._update(group, weight, weight.grad, near, transposed=transposed)
                    weight.grad = None
        super().step(closure)

    def _update(
        self, group: dict[str, Any], weight: Tensor, gradient: Tensor, projector: Tensor, *, transposed: bool
    ) -> None:
        tall, gradient = (weight.mT, gradient.mT) if transposed else (weight, gradient)
        low: Float[Tensor, "*n long r"] = gradient @ projector
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), device=weight.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(low), torch.zeros_like(low)
            if self.rule is not low_rank_update:
                state["last_norm"] = low.new_zeros(low.shape[:-2])
        first, second = group["betas"]
        state["step"] += 1
        state["exp_avg"].lerp_(low, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(low, low, value=1 - second)
        direction = state["exp_avg"] / (state["exp_avg_sq"].sqrt() + group["eps"])
        update = self.rule(gradient, low, direction, projector, state)
        correction = (1 - second ** state["step"]).sqrt() / (1 - first ** state["step"])
        tall.mul_(1 - group["lr"] * group["weight_decay"])
        tall.sub_(update * (group["lr"] * self.scale * correction))


def moment_shapes(groups: Iterable[ParameterGroup]) -> dict[Tensor, torch.Size]:
    """Return the shape (*n, long, r) of the moments of each weight that has a projector."""
    return {
        weight: torch.Size((*(weight.mT if transposed else weight).shape[:-1], projector.shape[-1]))
        for group in groups
        if "projectors" in group
        for weight, projector, transposed in zip(group["params"], group["projectors"], group["transposed"], strict=True)
    }


def _ratio(direction: Tensor, low: Tensor, *, dim: int | tuple[int, int]) -> Tensor:
    return vector_norm(direction, dim=dim, keepdim=True) / (vector_norm(low, dim=dim, keepdim=True) + TINY)
