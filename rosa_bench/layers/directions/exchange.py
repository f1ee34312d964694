"""Exchange single columns of A and rows of B of a low-rank layer with candidates, without changing its function."""

import torch
from torch import Tensor, nn

from rosa_bench.layers.low_rank import LowRankLinear
from rosa_bench.lowrank import merge

DIM = {"a": -1, "b": -2}  # along which a factor's vectors are counted
COUNTERPART = {"a": "b", "b": "a"}


class Exchange(nn.Module):
    """The candidates for one layer's vectors, and for how many steps each of its vectors does not train.

    candidates  spare columns of A (*n, out, count) and rows of B (*n, count, in), by the factor's name. They are in the
                CPU's memory, wherever the layer is
    idle_a, idle_b  steps for which a column of A or a row of B stays as it is, (r)
    """

    idle_a: Tensor
    idle_b: Tensor

    def __init__(self, layer: LowRankLinear):
        super().__init__()
        rank = layer.a.shape[-1]
        self.candidates: dict[str, Tensor] = {}
        for name in DIM:
            self.register_buffer(f"idle_{name}", torch.zeros(rank, dtype=torch.int32, device=layer.a.device))

    @torch.no_grad()
    def swap(self, layer: LowRankLinear, factor: str, *, place: int, candidate: int, idle_steps: int) -> None:
        """Exchange vector ``place`` of a factor for a candidate, and keep its counterpart from training for a while."""
        spare = self.candidates[factor].select(DIM[factor], candidate)
        current = getattr(layer, factor).select(DIM[factor], place)
        old, new = current.clone(), spare.to(current.device, current.dtype)
        vectors = {name: getattr(layer, name).narrow(DIM[name], place, 1) for name in DIM}
        vectors[factor] = (old - new).unsqueeze(DIM[factor])
        layer.write_residual(merge(layer.exact_residual(), vectors["a"], vectors["b"], layer.scale))
        current.copy_(new)  # first, because on the CPU it is the candidate itself
        spare.copy_(old)
        getattr(self, f"idle_{COUNTERPART[factor]}")[place] = idle_steps

    @torch.no_grad()
    def hold(self, layer: LowRankLinear) -> None:
        """Zero the gradients of idle vectors, and count one step. Part of a captured step."""
        for name, idle in (("a", self.idle_a), ("b", self.idle_b)):
            gradient: Tensor | None = getattr(layer, name).grad
            if gradient is not None:
                trains = idle == 0
                gradient.mul_(trains if name == "a" else trains.unsqueeze(-1))
            idle.sub_(1).clamp_(min=0)
