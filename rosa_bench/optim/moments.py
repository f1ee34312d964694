"""Change the optimizer's state of one parameter in place, so that captured graphs and checkpoints stay valid."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

# Adam's state -> the power of a gradient that it averages.
POWERS = {"exp_avg": 1, "exp_avg_sq": 2}


@torch.no_grad()
def clear(state: Mapping[str, Tensor], *, dim: int, index: int) -> None:
    """Zero what belongs to one row or column of the parameter. Its count of steps stays, as it is shared by all.

    Adam's correction of the bias therefore does not start again for it. With decay rates (0.9, 0.98) its first update
    is 0.7 of the learning rate, and with (0.9, 0.999) it is 3.2 of it.
    """
    for value in state.values():
        if value.ndim:
            value.select(dim, index).zero_()


@torch.no_grad()
def rotate(state: Mapping[str, Tensor], rotation: Float[Tensor, "*n r r"]) -> None:
    """Carry the moments of a parameter ``(*n, out, r)`` to a new basis, in which its gradient is ``g @ rotation``.

    The first moment is rotated exactly. The second becomes ``v @ rotation^2`` with the elementwise square, which takes
    the entries of a gradient's row as uncorrelated. It stays at least 0, and a permuted basis permutes it.

    Source of the approximation: Robert et al., "LDAdam: Adaptive Optimization from Low-Dimensional Gradient
    Statistics", arXiv 2410.16103. We leave out its correction by the first moment and its error feedback.
    """
    for name, power in POWERS.items():
        if name in state:
            state[name].copy_(state[name] @ rotation.to(state[name].dtype).pow(power))
