"""What a run is trained on, pinned: the commits of weights and rows on the hub, and the fingerprint of the rows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rosa_bench.config.schema import RunConfig
from rosa_bench.data.hub import fetch_rows
from rosa_bench.models.weights.hub import fetch_weights
from rosa_bench.tasks.context import Context
from rosa_bench.tasks.prepared import PreparedTask


def fetch(config: RunConfig, context: Context, *, pinned: Mapping[str, Any]) -> Context:
    """Return the context with weights and rows on this machine. Nothing after this needs the network.

    ``pinned`` are the inputs of the checkpoint that the run continues from, if any. Raises `UserError` if something
    cannot be fetched and is not cached.
    """
    return replace(
        context,
        source=fetch_weights(config.model, context.source, commit=pinned.get("weights_commit")),
        rows=fetch_rows(config.task, context.rows, commit=pinned.get("rows_commit")),
    )


def inputs_of(problem: PreparedTask) -> dict[str, str]:
    """Return what a checkpoint must share with the run that continues from it."""
    texts = problem.tokenizer is not None  # drawn numbers may differ in their last bit on another machine
    found = {
        "weights_commit": problem.commit,
        "rows_commit": problem.info.commit,
        "rows_fingerprint": problem.info.fingerprint if texts else None,
    }
    return {name: value for name, value in found.items() if value is not None}
