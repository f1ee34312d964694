"""Base classes for methods that replace linear layers."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rosa_bench.methods.base import Method
from rosa_bench.system.errors import UserError, check_pattern
from rosa_bench.system.seeds import generator
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from rosa_bench.layers.adapter import Adapter
    from rosa_bench.layers.low_rank import LowRankLinear
    from rosa_bench.layers.structure.linear import Convolution, Linear

BLOCK_NUMBER = re.compile(r"(?<![\w{,])\d")  # a number in a pattern, but not in a name such as lin1, nor a repeat


@dataclass(frozen=True, kw_only=True)
class TargetedMethod(Method):
    """A method that acts on chosen linear layers.

    adapts_convolutions  whether it acts on Conv1d and Conv2d layers too
    """

    adapts_convolutions: ClassVar[bool] = False

    targets: str = setting(
        "attention, all-linear (all but the head), or a regular expression for ends of layers' names"
    )
    attention: str = setting("the layers that attention means in this model")
    lm_head: str | None = setting(
        "a language model's output layer, if attention and all-linear include it",
        default=None,
        before=None,
    )
    default_targets: dict[str, str] = setting(
        "targets by recipe", default_factory=dict, identity=False, published=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pattern("method.targets", self.targets)
        check_pattern("method.attention", self.attention)
        check_pattern("method.lm_head", self.lm_head or "")

    def target_names(self, model: nn.Module) -> list[str]:
        """Return the names of the layers to act on.

        Raises `UserError` if there are none, or if ``targets`` matches a layer in some blocks only without naming the
        number of a block.
        """
        from rosa_bench.layers.structure.parts import output_layer
        from rosa_bench.layers.structure.surgery import left_out, linear_names, name_matches

        if self.targets == "all-linear":
            logits = output_layer(model) if self.lm_head is None else None
            return [
                name
                for name in linear_names(model, ".*", convolutions=self.adapts_convolutions)
                # A layer inside the head is named after the head: the head's name, a dot, its own name.
                if not name_matches(rf"({self.head})(\..*)?", name) and model.get_submodule(name) is not logits
            ]
        attention = "|".join(filter(None, (self.attention, self.lm_head)))
        pattern = attention if self.targets == "attention" else self.targets
        found = linear_names(model, pattern, convolutions=self.adapts_convolutions)
        if not BLOCK_NUMBER.search(self.targets) and (others := left_out(model, found)):
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            raise UserError(
                f"method.targets={self.targets} matches only some layers of a kind; it leaves out: "
                f"{', '.join(others[:3])}{more}; to adapt some blocks only, name their numbers, as in blocks\\.[0-5]\\."
            )
        return found

    def check_shapes(self, model: nn.Module) -> None:
        self.target_names(model)

    def watched_names(self, model: nn.Module, attention: str) -> list[str]:
        return self.target_names(model)


@dataclass(frozen=True, kw_only=True)
class AdapterMethod(TargetedMethod):
    """A method that replaces linear layers."""

    adapts_layers: ClassVar[bool] = True

    fused: dict[str, int] | None = setting(
        "how many projections one matrix of the model holds, by the ends of layers' names", default=None, before=None
    )
    split_qkv: bool = setting(
        "whether each of those projections gets an adapter of its own", default=False, before=False
    )
    train_head: bool = setting("whether the task's head trains too")
    train_biases: bool = setting("whether the biases of the replaced layers train too")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split_qkv and not self.fused:
            raise UserError("method.split_qkv=true needs a model that fuses several projections in one matrix, as gpt2")

    def replace(
        self, model: nn.Module, make: Callable[[Linear], Adapter] | Callable[[Linear | Convolution], Adapter]
    ) -> None:
        """Replace each target, or each block of a split target, with ``make(layer)``."""
        from rosa_bench.layers.structure.surgery import replace_linears

        replace_linears(model, self.split(model, self.target_names(model)), make)

    def split(self, model: nn.Module, names: list[str]) -> list[str]:
        """Split the named layers that fuse several projections, if ``split_qkv`` is set. Return the resulting names."""
        from rosa_bench.layers.structure.surgery import name_matches, split_linear

        found = []
        fused = self.fused if self.split_qkv and self.fused else {}
        for name in names:
            count = next((count for pattern, count in fused.items() if name_matches(pattern, name)), 1)
            found += split_linear(model, name, count) if count > 1 else [name]
        return found

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        from rosa_bench.layers.adapter import adapters

        for _, layer in adapters(model):
            for name, parameter in layer.named_parameters():
                if name not in (*layer.frozen, *layer.fixed) and (name != "bias" or self.train_biases):
                    yield parameter
        if self.train_head:
            yield from self.head_parameters(model)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """Like `Method.state`, without the adapters' frozen weights, which attaching to the same model recreates."""
        from rosa_bench.layers.adapter import adapters, buffers

        frozen = {f"{name}.{buffer}" for name, layer in adapters(model) for buffer in buffers(layer)}
        return {name: tensor for name, tensor in super().state(model).items() if name not in frozen}


@dataclass(frozen=True, kw_only=True)
class LowRankMethod(AdapterMethod):
    """A method whose layers compute with ``residual + scale A B``. Subclasses decide what these tensors hold."""

    adapts_convolutions: ClassVar[bool] = True

    rank: int = setting("rank of the factors", at_least=1, at_most=10**6, key="rank")

    @property
    def rewrites(self) -> bool:
        """Whether the method writes into the residuals, so that those in bfloat16 must keep all bits of float32."""
        return True

    @property
    def scale(self) -> float:
        """The factor before A B."""
        return 1.0

    @property
    def train_b(self) -> bool:
        """Whether B trains, as A always does."""
        return True

    @abstractmethod
    def initialise(self, layers: list[LowRankLinear], generator: torch.Generator) -> None:
        """Set the first residuals and factors of the layers, which start with W and zero factors."""

    def check_shapes(self, model: nn.Module) -> None:
        from rosa_bench.layers.structure.linear import weight_of

        for name in self.target_names(model):
            check_rank(self.rank, name, weight_of(model.get_submodule(name)).shape)  # pyrefly: ignore[bad-argument-type]

    def insert(self, model: nn.Module) -> None:
        from rosa_bench.layers.convolution import low_rank_layer
        from rosa_bench.layers.low_rank import low_rank_layers

        self.replace(model, lambda plain: low_rank_layer(plain, self.rank, scale=self.scale, train_b=self.train_b))
        if layers := [layer for layer in low_rank_layers(model) if not layer.a.is_meta]:  # shapes alone have no values
            for layer in layers:
                if self.rewrites:
                    layer.keep_remainder()
            self.initialise(layers, self.generator(0))

    def generator(self, step: int) -> torch.Generator:
        """Return the generator of one step. It depends only on seed and step, so a resumed run draws the same."""
        return generator(self.seed, "subspace", step)


def check_rank(rank: int, name: str, shape: tuple[int, ...]) -> None:
    """Raise `UserError` if a rank does not fit the weight of this shape, of the layer with this name."""
    *_, rows, columns = shape
    if rank > min(rows, columns):
        raise UserError(
            f"rank={rank} does not fit {name}, a {rows} x {columns} weight; "
            f"use a rank of at most {min(rows, columns)}, or other layers with method.targets="
        )
