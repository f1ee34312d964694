"""Bottleneck adapters: small networks with a skip connection, inserted into every block of a frozen transformer.

Sources, each a setting of one class (``conf/method/<name>.yaml``):

houlsby   Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", arXiv 1902.00751: after the attention and
          after the feed-forward part. The layer normalisation trains too.
pfeiffer  Pfeiffer et al., "AdapterFusion", arXiv 2005.00247: after the feed-forward part alone. MAD-X (arXiv
          2005.00052) and the authors' library read the normalised sum with the residual; ours reads the output of the
          feed-forward part.
lin       Lin et al., "Exploring Versatile Generative Language Model Via Parameter-Efficient Transfer Learning", arXiv
          2004.03829: after the whole block, with a layer normalisation of the adapter's own. They also train task
          embeddings; we have none, because a run has one task.

The first two work on the last projection of the part, before the sum with the residual. Their authors apply the model's
dropout before the adapter, we after it. No adapter has dropout of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rosa_bench.methods.inserted import Inserted
from rosa_bench.system.errors import UserError
from rosa_bench.system.seeds import generator
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from torch import nn

PLACES = ("attention_output", "feed_forward_output", "block")


@dataclass(frozen=True, kw_only=True)
class BottleneckAdapters(Inserted):
    """Inserts an adapter at each of ``places``. All start as the identity, so the function is unchanged.

    places  ``attention_output``     after the projection at the end of the attention part
            ``feed_forward_output``  after the projection at the end of the feed-forward part
            ``block``                after the whole block
    """

    places: list[str] = setting("where in each block an adapter is inserted", choices=PLACES)
    size: int = setting("width of the bottleneck", at_least=1, at_most=10**5)
    nonlinearity: str = setting("between the two projections", choices=("relu", "gelu"))
    own_norm: bool = setting("whether an adapter first normalises its input, with trained parameters of its own")
    train_norms: bool = setting("whether the model's normalisation layers train too")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.places or len(set(self.places)) < len(self.places):
            raise UserError(f"method.places={self.places} must name at least one place, and none twice")

    def check_shapes(self, model: nn.Module) -> None:
        from rosa_bench.layers.structure.parts import hidden_size

        hidden_size(model, method=self.name)
        for place in self.places:
            self._modules(model, place)

    def insert(self, model: nn.Module) -> None:
        from rosa_bench.layers.bottleneck import Bottleneck, insert_after
        from rosa_bench.layers.structure.parts import hidden_size

        width, like = hidden_size(model, method=self.name), next(model.parameters())
        draws = generator(self.seed, "bottleneck")
        for module in [module for place in self.places for module in self._modules(model, place)]:
            adapter = Bottleneck(width, self.size, nonlinearity=self.nonlinearity, own_norm=self.own_norm, like=like)
            adapter.start(draws)
            insert_after(module, adapter)

    def inserted(self, model: nn.Module) -> Iterable[nn.Parameter]:
        from rosa_bench.layers.bottleneck import bottlenecks
        from rosa_bench.layers.structure.parts import norms

        own = [parameter for adapter in bottlenecks(model) for parameter in adapter.parameters()]
        yield from own
        if self.train_norms:
            apart = {id(parameter) for parameter in (*own, *self.head_parameters(model))}
            for norm in norms(model):
                yield from (parameter for parameter in norm.parameters() if id(parameter) not in apart)

    def _modules(self, model: nn.Module, place: str) -> list[nn.Module]:
        """Return the modules after which a place's adapters come."""
        from rosa_bench.layers.structure.blocks import transformer_blocks
        from rosa_bench.layers.structure.parts import modules_of

        return transformer_blocks(model) if place == "block" else modules_of(model, self.parts, place, method=self.name)
