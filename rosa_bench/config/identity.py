"""The record of one run: everything a reader needs to believe a figure, as one JSON file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rosa_bench.config.schema import RunConfig

# Settings that cannot change a figure. `rank` counts through the method, where that has one.
NOT_IDENTITY = (
    "rank",
    "data_dir",
    "device",
    "precision",
    "output_dir",
    "results_dir",
    "resume",
    "retry_failed",
    "checkpoint_s",
    "save_model",
    "logger",
    "record_spectrum",
    "cuda_graphs",
)
NOT_IDENTITY_OF = {
    "task": ("title", "rows", "hub", "folder"),
    "model": ("title", "parameters", "licence", "hub", "revision", "wheel", "path", "random", "note"),
    "method": ("title", "default_lr"),
    "protocol": ("title", "lm_head", "loss_on_prompt"),  # these count through the method, and the task
}
# Settings that some records are older than, each with what was done before it could be set. An identity leaves them out
# where they say just that, so that those runs keep their names.
ADDED_SINCE: dict[str, Any] = {
    "pad_to_max": False,
    "group_by_length": False,
    "compile": "none",
    "method.lm_head": None,
    "method.fused": None,
    "method.split_qkv": False,
    "optimizer.schedule": "linear",
}


# Identities hold the names that generators had when the first records were made.
GENERATOR_NAMES = {
    "grammar": "rosa_bench.data.grammar:sentences",
    "restaurants": "rosa_bench.data.restaurants:load",
    "synthetic_regression": "rosa_bench.problems.synthetic:sample",
}


def identity(
    config: Mapping[str, Any], *, data: str, model: dict[str, Any], device: str, precision: str
) -> dict[str, Any]:
    """Return everything that can change the scores of a run, and nothing else.

    ``config`` is a `RunConfig` as a dictionary, or the configuration in a record. ``data`` and ``model`` fix the rows
    and the weights by what they are, not by where they lie.
    """
    settings = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    for group, unimportant in NOT_IDENTITY_OF.items():
        settings[group] = {key: value for key, value in settings[group].items() if key not in unimportant}
    if (generator := settings["task"].get("embedded")) in GENERATOR_NAMES:
        settings["task"]["embedded"] = GENERATOR_NAMES[generator]
        data = data.replace(f"embedded {generator}", f"embedded {GENERATOR_NAMES[generator]}")
    for key, before in ADDED_SINCE.items():
        *group, name = key.split(".")
        place = settings[group[0]] if group else settings
        if name in place and place[name] == before:
            del place[name]
    return {**settings, "data": data, "weights": model, "device": device, "precision": precision}


def is_identity(key: str) -> bool:
    """Whether a setting, by its dotted key, can change a figure; of ``rank`` its method's says so."""
    group, *rest = key.split(".")
    return group not in NOT_IDENTITY and (not rest or rest[0] not in NOT_IDENTITY_OF.get(group, ()))


def run_id(config: RunConfig, identity: dict[str, Any]) -> str:
    """``<task>-<model>-<method>-r<rank>-lr<lr>-s<seed>-<hash>``; a method without a rank has no such part."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    rank = [f"r{config.method.rank}"] if hasattr(config.method, "rank") else []  # pyright: ignore[reportAttributeAccessIssue]
    names = [config.task.name, config.model.name, config.method.name, *rank]
    return "-".join([*names, f"lr{config.lr:g}", f"s{config.seed}", digest])


def public_config(config: RunConfig) -> dict[str, Any]:
    """The configuration for a record: without folders and tools of the machine that it was made on."""
    settings = asdict(config)
    for key in ("data_dir", "output_dir", "results_dir", "resume", "retry_failed", "checkpoint_s", "logger"):
        del settings[key]
    settings["model"]["path"] = None
    return settings
