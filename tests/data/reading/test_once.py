import csv
from pathlib import Path

import pytest

from rosa_bench.config.schema import RunConfig
from rosa_bench.data.reading.once import rows_read_once
from rosa_bench.runs.resolve import own_task
from rosa_bench.tasks.classification import rows
from rosa_bench.tasks.classification.task import TextTask


def test_rows_that_are_read_once_are_the_same_as_those_read_again(
    compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *([f"text {n}", "ab"[n % 2]] for n in range(50))])
    config: RunConfig = compose("task=classify", f"data={path}", "model=tiny_roberta")
    task = own_task(config)
    assert isinstance(task, TextTask)
    reads: list[int] = []
    read = rows.read_everything
    monkeypatch.setattr(rows, "read_everything", lambda *a, **k: (reads.append(1), read(*a, **k))[1])

    def load(seed: int) -> rows.Splits:
        return rows.load_splits(task, path, held_out_rows=0.1, held_out_max=1000, seed=seed, limit_train=30)

    alone = [load(0), load(1)]
    assert len(reads) == 2
    reads.clear()
    with rows_read_once():
        assert [load(0), load(1)] == alone
        assert load(0) == alone[0]  # nobody has changed what is shared
    assert len(reads) == 1
    load(0)
    assert len(reads) == 2


def test_files_of_one_name_keep_their_own_rows(compose, tmp_path: Path) -> None:
    paths = [tmp_path / folder / "mine.csv" for folder in ("one", "other")]
    for path in paths:
        path.parent.mkdir()
        with path.open("w", newline="") as file:
            lines = [[f"{path.parent.name} {n}", "ab"[n % 2]] for n in range(20)]
            csv.writer(file).writerows([["text", "label"], *lines])
    task = own_task(compose("task=classify", f"data={paths[0]}", "model=tiny_roberta"))
    assert isinstance(task, TextTask)
    with rows_read_once():
        for path in paths:
            [row, *_] = rows.load_splits(task, path).train
            assert row.texts[0].startswith(f"{path.parent.name} ")
