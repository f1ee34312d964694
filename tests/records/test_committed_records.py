"""No committed record is ever renamed: each id follows from what the record says of its run."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import DictConfig, OmegaConf

from rosa_bench.config.folder import conf_folder
from rosa_bench.config.identity import identity, run_id
from rosa_bench.config.parse import parse
from rosa_bench.config.schema import RunConfig
from rosa_bench.records.store import load_records

RESULTS = Path(__file__).parents[2] / "results"
NOT_WEIGHTS = ("source", "commit")  # of what a record says of its model


def committed() -> Iterator[Path]:
    for folder in (RESULTS / "runs", RESULTS / "quickstart" / "runs"):
        yield from (path for path in folder.rglob("*.json") if "superseded" not in path.parts)


def test_every_committed_record_has_the_id_that_its_settings_give() -> None:
    paths = list(committed())
    if not paths:
        pytest.skip("this copy comes without results/")
    for path in paths:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = identity(
            record["config"],
            data=record["data"]["source"],
            model={key: value for key, value in record["model"].items() if key not in NOT_WEIGHTS},
            device=record["device"]["type"],
            precision=record["device"]["precision"],
        )
        digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
        assert record["id"] == path.stem, path
        assert record["id"].endswith(f"-{digest[:10]}"), path


RUNS_OF = sorted({path.name.partition("-")[0] for path in (RESULTS / "runs").rglob("*.json")})  # tasks


@cache
def composed(*overrides: str) -> dict[str, Any]:
    """What a command line comes to today, before it is checked."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
        return OmegaConf.to_container(hydra.compose("config", overrides=list(overrides)))  # pyright: ignore[reportReturnType]


# What alone differs between most runs: fields that are put in afterwards, for to check a configuration takes long.
PLAIN = {"seed": 0, "lr": 1.0}


@cache
def checked(recorded: str) -> RunConfig:
    """A record's configuration, as JSON, with what has been added since."""
    config = json.loads(recorded)
    config["task"].pop("embedded")  # generators have had other names
    groups = (f"{group}={config[group]['name']}" for group in ("task", "model", "protocol", "method"))
    return parse(DictConfig(merged(composed(*groups), config)))


def merged(settings: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """``settings`` with the values of ``others`` in their place. OmegaConf's merge takes as long as all the rest."""
    both = {
        key: merged(settings[key], value) if isinstance(value, dict) and isinstance(settings.get(key), dict) else value
        for key, value in others.items()
    }
    return {**settings, **both}


@pytest.mark.skipif(not RUNS_OF, reason="needs the committed records")
@pytest.mark.parametrize("task", RUNS_OF)
def test_each_committed_run_resolved_today_has_the_id_that_it_has(task: str) -> None:
    """The same settings, composed and checked today, give the same id: the run still counts as completed."""
    names, expected = [], []
    for record in load_records(RESULTS):
        if record.settings.task.name != task:
            continue
        config = replace(checked(json.dumps(record.config | PLAIN)), **{field: record.config[field] for field in PLAIN})
        known = identity(
            asdict(config),
            data=record.data.source,
            model={key: value for key, value in record.model.items() if key not in NOT_WEIGHTS},
            device=record.device.type,
            precision=record.device.precision,
        )
        names.append(run_id(config, known))
        expected.append(record.id)
    assert expected
    assert names == expected
