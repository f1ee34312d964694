"""Whole runs, each in a process of its own, with models and data of a hub on this machine."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow

COLA = ("task=cola", "model=roberta_base", "method=lora")


@pytest.mark.parametrize(("task", "model", "data", "branch", "weights"), [
    ("cola", "roberta_base", "nyu-mll/glue", "main", "FacebookAI/roberta-base"),
    ("boolq", "roberta_base", "aps/super_glue", "main", "FacebookAI/roberta-base"),
    ("e2e_nlg", "gpt2", "tuetschek/e2e_nlg", "refs/convert/parquet", "openai-community/gpt2"),
])  # fmt: skip
def test_a_run_from_the_hub_records_both_commits_and_downloads_only_what_it_needs(
    hub: Any, run: Callable, records: Callable, task: str, model: str, data: str, branch: str, weights: str
) -> None:
    extra = ("task.decoding.max_new_tokens=4", "task.decoding.beams=1") if task == "e2e_nlg" else ()
    done = run(f"task={task}", f"model={model}", *extra)
    assert done.status == 0, done.out
    [record] = records()
    assert record["model"]["commit"] == hub.repositories["model", weights].branches["main"]
    assert record["data"]["commit"] == hub.repositories["dataset", data].branches[branch]
    asked = " ".join(hub.requests)
    for unwanted in (".bin", ".h5", "onnx", ".py", "README", "mrpc", "cola/test"):
        assert unwanted not in asked
    assert len([request for request in hub.requests if "/revision/" in request]) == 2  # one for each repository
