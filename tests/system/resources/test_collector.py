"""The search for garbage pauses, and goes on as before."""

import gc
from collections.abc import Iterator

import pytest

from rosa_bench.system.resources.collector import FEW, collector_paused


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


@pytest.fixture
def searching() -> Iterator[None]:
    """Search for garbage, among all that the tests have set aside, too."""
    gc.unfreeze()
    enabled = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if enabled else gc.disable)()
    gc.collect()
    gc.freeze()


@pytest.mark.usefixtures("searching")
def test_many_objects_made_in_the_block_count_as_old() -> None:
    with collector_paused():
        made = [[] for _ in range(2 * FEW)]
    old = {id(one) for one in gc.get_objects(generation=2)}
    assert all(id(one) in old for one in made)
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("searching")
@pytest.mark.parametrize("count", [1, 2 * FEW])
def test_what_somebody_else_has_frozen_stays_frozen(count: int) -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    with collector_paused():
        made = [[] for _ in range(count)]
    assert len(made) == count
    assert gc.get_freeze_count() > frozen / 2  # but for what is gone
