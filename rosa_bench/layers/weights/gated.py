"""Weights with a difference behind hard-concrete gates, which training can close exactly.

A gate is ``min(1, max(0, s (r - l) + l))`` with ``s = sigmoid(log u - log(1 - u) + a)``, where u is uniform on (0, 1)
and ``a`` trains. The interval (l, r) is wider than (0, 1), so a gate is exactly 0 or 1 with a probability above zero.

Sources: Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", arXiv 1712.01312. Guo et al.,
"Parameter-Efficient Transfer Learning with Diff Pruning", arXiv 2012.07463, whose temperature is 1.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from rosa_bench.layers.weights.parametrised import Form

LOWER, UPPER = -1.5, 1.5  # l and r, the authors' choice
OPEN, CLOSED = 1e4, -1e4  # values of a for which a gate is exactly 1, or 0; finite, as all tensors of an adapter are


def gate(a: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"] | float = 0.0) -> Float[Tensor, "*shape"]:
    """Return gates for some ``noise = log u - log(1 - u)``. Without noise this is the gate used after training."""
    return (torch.sigmoid(a + noise) * (UPPER - LOWER) + LOWER).clamp(0, 1)


def random_gate(a: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Draw gates, from the device's default generator as dropout does."""
    return gate(a, torch.logit(torch.rand_like(a)))  # u = 0 gives a closed gate


def open_probability(a: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the probability that a gate is not 0."""
    return torch.sigmoid(a - math.log(-LOWER / UPPER))


class GatedDifference(Form):
    """Adds a difference, each entry behind a gate of its own, and if ``structured`` all behind one more.

    Noise is drawn whenever the weight is read in training: twice in a pass where two modules share it. After `fix` the
    gates are constant and no longer train.

    a, group  what the gates are made of: an entry's own, and that of the whole weight, (1,)
    """

    def __init__(self, weight: Float[Tensor, "*shape"], *, start: float, structured: bool):
        super().__init__()
        self.difference = nn.Parameter(torch.zeros_like(weight, requires_grad=False))
        self.a = nn.Parameter(torch.full_like(weight, start, requires_grad=False))
        self.group = nn.Parameter(weight.new_full((1,), start)) if structured else None

    @property
    def fixed(self) -> bool:
        """Whether the gates no longer train."""
        return not self.a.requires_grad

    def forward(self, frozen: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if self.fixed or not self.training:
            return frozen + self.expected()
        group = None if self.group is None else random_gate(self.group)
        return _GatedSum.apply(frozen, self.difference, self.a, group)

    def expected(self) -> Float[Tensor, "*shape"]:
        """Return the difference behind gates without noise."""
        gates = gate(self.a) if self.group is None else gate(self.group) * gate(self.a)
        return gates * self.difference

    def expected_nonzeros(self) -> Float[Tensor, ""]:
        """Return the expected number of entries with an open gate: the relaxed L0 norm of the difference."""
        opened = open_probability(self.a).sum()
        return opened if self.group is None else opened * open_probability(self.group).squeeze()

    @torch.no_grad()
    def fix(self, kept: Int[Tensor, " kept"]) -> None:
        """Keep the entries at these flat indices as they are without noise, and set all others to zero for good."""
        values = self.expected().flatten()[kept]
        self.difference.zero_().view(-1).index_copy_(0, kept, values)
        self.a.fill_(CLOSED).view(-1).index_fill_(0, kept, OPEN)
        self.a.requires_grad_(False)
        if self.group is not None:
            self.group.fill_(OPEN).requires_grad_(False)


class _GatedSum(torch.autograd.Function):
    """``frozen + group * gate * difference``. Saves only the gates: a gate between 0 and 1 determines its noise."""

    @staticmethod
    def forward(ctx: FunctionCtx, frozen: Tensor, difference: Tensor, a: Tensor, group: Tensor | None) -> Tensor:
        gates = random_gate(a)
        ctx.save_for_backward(difference, gates, group)  # pyrefly: ignore[bad-argument-type] - None is allowed
        change = gates * difference
        return frozen + (change if group is None else group * change)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor):  # pyrefly: ignore[bad-override]
        difference, gates, group = ctx.saved_tensors  # pyrefly: ignore[missing-attribute]
        of_group = None if group is None else (gradient * gates * difference).sum().reshape(1)
        gradient = gradient if group is None else gradient * group
        s = (gates - LOWER) / (UPPER - LOWER)
        slope = ((UPPER - LOWER) * s * (1 - s)).where((gates > 0) & (gates < 1), 0)  # of a gate with respect to a
        return None, gradient * gates, gradient * difference * slope, of_group
