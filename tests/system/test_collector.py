"""The search for garbage pauses, and goes on as before."""

import gc
from collections.abc import Iterator

import pytest

from rosa_bench.system.collector import collector_paused


@pytest.fixture(params=[True, False], ids=["on before", "off before"])
def before(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether garbage was searched for before the block."""
    enabled = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if enabled else gc.disable)()


def test_it_pauses_in_the_block_and_in_blocks_inside(before: bool) -> None:
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled() == before


def test_it_goes_on_after_an_error_and_after_each_call(before: bool) -> None:
    @collector_paused()
    def failing() -> None:
        assert not gc.isenabled()
        raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            failing()
        assert gc.isenabled() == before
