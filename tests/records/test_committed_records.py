"""No committed record is ever renamed: its id follows from its contents."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from rosa_bench.config.composing.parse import parse
from rosa_bench.config.identity.defaults import composed
from rosa_bench.config.identity.run_id import identity, run_id
from rosa_bench.config.schema import RunConfig
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_records

RESULTS = Path(__file__).parents[2] / "results"
NOT_WEIGHTS = ("source", "commit")  # keys of a record's model that do not identify weights


FOLDERS = (RESULTS, RESULTS / "quickstart")
RUNS_OF = sorted({path.name.partition("-")[0] for folder in FOLDERS for path in (folder / "runs").rglob("*.json")})


@cache
def committed() -> dict[str, list[RunRecord]]:
    """Return the committed records by task."""
    found: dict[str, list[RunRecord]] = {}
    for record in (record for folder in FOLDERS for record in load_records(folder)):
        found.setdefault(record.config["task"]["name"], []).append(record)
    return found


# Fields that are often the only difference between runs. They are set after checking, because checking is slow.
PLAIN = {"seed": 0, "lr": 1.0}


@cache
def checked(recorded: str) -> RunConfig:
    """Return the checked settings of a record's configuration (JSON), with settings added since."""
    config = json.loads(recorded)
    config["task"].pop("embedded")  # generators have been renamed
    config["protocol"].pop("lora_init", None)  # moved to LoRA's own yaml
    names = {group: config[group]["name"] for group in ("task", "model", "protocol", "method")}
    return parse(DictConfig(merged(composed(names), config)))


def merged(settings: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Return ``settings`` updated with ``others``, recursively. OmegaConf's merge would double the test's time."""
    both = {
        key: merged(settings[key], value) if isinstance(value, dict) and isinstance(settings.get(key), dict) else value
        for key, value in others.items()
    }
    return {**settings, **both}


@pytest.mark.skipif(not RUNS_OF, reason="needs the committed records")
@pytest.mark.parametrize("each", [4, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("task", RUNS_OF)
def test_committed_runs_keep_their_ids(task: str, each: int) -> None:
    """The same settings, composed and checked today, give the same id, so the run still counts as completed."""
    names, expected = [], []
    for record in committed()[task][::each]:
        config = replace(checked(json.dumps(record.config | PLAIN)), **{field: record.config[field] for field in PLAIN})
        known = identity(
            config,
            data=record.data.source,
            model={key: value for key, value in record.model.items() if key not in NOT_WEIGHTS},
            device=record.device.type,
            precision=record.device.precision,
        )
        names.append(run_id(config, known))
        expected.append(record.id)
    assert expected
    assert names == expected
