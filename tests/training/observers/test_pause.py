"""A run that is paused and continued ends like an uninterrupted one."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from rosa_bench import api
from rosa_bench.config.schema import RunConfig
from rosa_bench.records.record import RunRecord, to_values
from rosa_bench.records.store import load_records
from rosa_bench.system.errors import PausedError
from rosa_bench.training.observers.pause import Pause

TINY = (
    "task=grammar", "model=tiny_roberta", "device=cpu", "limit_train=80", "limit_eval=20", "batch_size=8", "epochs=3",
    "max_length=32", "lr=3e-3", "protocol=fair", "method=rosa", "rank=2", "method.resample_every=3",
    "method.resample_unit=steps",
)  # fmt: skip


@pytest.fixture
def tiny(compose: Callable[..., RunConfig], tmp_path: Path) -> Callable[[str], RunConfig]:
    def make(name: str) -> RunConfig:
        return compose(*TINY, f"results_dir={tmp_path / name}", f"output_dir={tmp_path / name / 'outputs'}")

    return make


def scores(record: RunRecord) -> dict[str, object]:
    found = to_values(record)["scores"]
    for epoch in found["epochs"]:
        del epoch["time_s"]
    return found


def test_a_run_paused_after_an_epoch_and_in_one_ends_bit_for_bit_like_another(
    tiny: Callable[[str], RunConfig], tmp_path: Path
) -> None:
    alone = api.run(tiny("alone"))
    calls: Iterator[int] = count()
    with pytest.raises(PausedError, match="paused after 1 of 3 epochs, after step 9"):
        api.run(tiny("paused"), [Pause(1)])
    [record] = load_records(tmp_path / "paused")
    assert (record.status, len(record.scores.epochs)) == ("interrupted", 1)
    with pytest.raises(PausedError, match="time is up, after step 13"):
        api.run(tiny("paused"), [Pause(3, lambda: next(calls) == 3)])  # at the fourth step of the second epoch
    assert scores(api.run(tiny("paused"), [Pause(3)])) == scores(alone)
