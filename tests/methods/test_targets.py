"""``method.targets``: which layers a pattern chooses, and the patterns that choose some blocks by accident."""

from collections.abc import Callable

import pytest
from torch import nn

from rosa_bench.config.schema import RunConfig
from rosa_bench.methods.adapted import TargetedMethod
from rosa_bench.system.errors import UserError

BLOCKS = 11  # so that one number has two digits


@pytest.fixture(scope="module")
def model() -> nn.Module:
    def block() -> nn.Module:
        return nn.ModuleDict({"query": nn.Linear(1, 1), "lin1": nn.Linear(1, 1)})

    return nn.ModuleDict({"h": nn.ModuleList(block() for _ in range(BLOCKS))})


def targeted(compose: Callable[..., RunConfig], pattern: str) -> TargetedMethod:
    method = compose("task=grammar", "method=lora", f"method.targets='{pattern}'").method
    assert isinstance(method, TargetedMethod)
    return method


@pytest.mark.parametrize(("pattern", "left_out"), [(r"h\.\d\.query", "query"), (r"\d{1}\.lin1", "lin1")])
def test_a_pattern_that_misses_a_block_by_accident_is_refused(
    compose: Callable[..., RunConfig], model: nn.Module, pattern: str, left_out: str
) -> None:
    method = targeted(compose, pattern)
    with pytest.raises(UserError, match=rf"matches only some layers of a kind; it leaves out: h\.10\.{left_out};"):
        method.target_names(model)


@pytest.mark.parametrize(
    ("pattern", "count"),
    [(r"h\.\d+\.query", 11), (r"h\.1\d?\.query", 2), (r"h\.[0-5]\.lin1", 6), (r"h\.(0|10)\..*", 4)],
)
def test_a_pattern_may_name_the_numbers_of_blocks(
    compose: Callable[..., RunConfig], model: nn.Module, pattern: str, count: int
) -> None:
    assert len(targeted(compose, pattern).target_names(model)) == count
