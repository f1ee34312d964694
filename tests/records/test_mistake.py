import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.records.record import RunRecord, to_values
from rosa_bench.records.store import load_record, load_records, runs_folder
from rosa_bench.system.errors import UserError

Make = Callable[..., RunRecord]

DAMAGED = {
    "empty": "",
    "half": '{"id": "x", "sta',
    "a list": "[1, 2]",
    "a number": "3",
    "a text": '"record"',
    "nothing in it": "{}",
    "no status": '{"id": "x"}',
    "no end": "[" * 100_000,
    "not utf-8": None,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_record_is_named_with_its_file(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    path = runs_folder(tmp_path) / "cola-x.json"
    path.parent.mkdir()
    text = DAMAGED[kind]
    path.write_bytes(b'{"id": "\xff"}' if text is None else text.encode())
    before = path.read_bytes()
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))} is not a run's record: .*; fix it or") as raised:
        load_record(path)
    assert load_records(tmp_path) == []
    assert caplog.messages == [str(raised.value)]
    assert "\n" not in caplog.text.rstrip("\n")
    assert path.read_bytes() == before


# Key -> value, and part of the message. GONE removes the key.
GONE = object()
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"config.seed": GONE}, "config.seed is missing;"),
    ({"config.seed": "0"}, 'config.seed is "0", not int;'),
    ({"config.lr": 0}, "config.lr is 0, not float > 0"),
    ({"config.task": None}, "config.task is null, not object;"),
    ({"config.task.title": 5}, "config.task.title is 5, not str;"),
    ({"scores": []}, "scores is [], not object;"),
    ({"parameters.trainable": "5"}, 'parameters.trainable is "5", not int'),
    ({"id": 5}, "id is 5, not str;"),
    ({"id": GONE}, "id is missing;"),
    ({"data.rows": 3}, "data.rows is 3, not object;"),
    ({"data.rows.held_out": GONE}, "data.rows.held_out is missing;"),
    ({"data.official_rows.train": "all"}, 'data.official_rows.train is "all", not int;'),
    ({"deviations.epochs": [1]}, "deviations.epochs is [1], not array"),
    ({"started_at": "yesterday"}, 'started_at is "yesterday", not a date and time'),
    ({"started_at": "y" * 100}, f'started_at is "{"y" * 39}..., not a date and time'),
    ({"started_at": 2026}, "started_at is 2026, not str;"),
    ({"started_at": "2026-01-02T03:04:05"}, "not a date and time with a time zone;"),
    ({"scores.selected_by": {"name": "f1", "lower_is_better": False}}, "scores.epochs.0.scores.f1 is missing;"),
    ({"scores.reported": "f1", "scores.selected_by": GONE}, "scores.epochs.0.scores.f1 is missing;"),
    ({"scores.reported": "f1", "scores.epochs": []}, "scores.selected.f1 is missing;"),
    ({"scores.last": None}, "scores.last.accuracy is missing;"),
    ({"scores.last.accuracy": "high"}, 'scores.last.accuracy is "high", not'),
    ({"scores.selection_score": GONE}, "scores.selection_score is missing;"),
    ({"scores.selected_on": "test"}, 'scores.selected_on is "test", not one of held_out, validation,'),
    ({"scores.epochs.0.train_loss": "low"}, 'scores.epochs.0.train_loss is "low", not float'),
    ({"scores": {}}, "scores.reported is missing;"),
    ({"parameters": {}}, "parameters.trainable is missing;"),
    ({"spectrum": {"ranks": [1]}}, 'spectrum is {"ranks": [1]}, has ranks and no weights;'),
    ({"spectrum": {"ranks": [1], "weights": {"a": {"rank": 1}}}}, "spectrum.weights.a.norm is missing;"),
    ({"time_s": {"load": 1, "train": "long"}}, 'time_s.train is "long", not'),
    ({"model.source": 3}, "model.source is 3, not str;"),
    ({"schema": 0}, "schema is 0;"),
]


@pytest.mark.parametrize(
    ("changes", "message"), WRONG, ids=[f"{number}: {message}" for number, (_, message) in enumerate(WRONG)]
)
def test_the_path_of_a_wrong_value_is_named(
    record: Make, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    values = to_values(record())
    for key, value in changes.items():
        *inside, last = (int(step) if step.isdigit() else step for step in key.split("."))
        place: Any = values
        for step in inside:
            place = place[step]
        if value is GONE:
            del place[last]
        else:
            place[last] = value
    path = runs_folder(tmp_path) / "x.json"
    path.parent.mkdir()
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))} is not a run's record: .*{re.escape(message)}"):
        load_record(path)
