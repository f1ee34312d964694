"""Whole runs, each in a process of its own, with models and data of a hub on this machine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

COLA = ("task=cola", "model=roberta_base", "method=lora")
LONG = ("epochs=3", "checkpoint_s=0")


CASES = {  # overrides, data and their branch, weights
    "cola": (("task=cola", "model=roberta_base"), "nyu-mll/glue", "main", "FacebookAI/roberta-base"),
    "boolq": (("task=boolq", "model=roberta_base"), "aps/super_glue", "main", "FacebookAI/roberta-base"),
    "e2e_nlg": (
        ("task=e2e_nlg", "model=gpt2", "task.decoding.max_new_tokens=4", "task.decoding.beams=1"),
        "tuetschek/e2e_nlg", "refs/convert/parquet", "openai-community/gpt2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("cases", [("cola", "e2e_nlg"), pytest.param(("boolq",), marks=pytest.mark.long)])
def test_a_run_from_the_hub_records_both_commits_and_downloads_only_what_it_needs(
    hub: Any, runs: Callable, records: Callable, cases: tuple[str, ...]
) -> None:
    done = runs(*(CASES[case][0] for case in cases), HF_TOKEN="hf_averysecrettoken")
    assert done.status == 0, done.out
    for case, record in zip(cases, records(), strict=True):  # by the names of the tasks
        _, data, branch, weights = CASES[case]
        assert record["model"]["commit"] == hub.repositories["model", weights].branches["main"]
        assert record["data"]["commit"] == hub.repositories["dataset", data].branches[branch]
    asked = " ".join(hub.requests)
    for unwanted in (".bin", ".h5", "onnx", ".py", "README", "mrpc", "cola/test"):
        assert unwanted not in asked
    of_revisions = [request for request in hub.requests if "/revision/" in request]
    assert len(of_revisions) == 2 * len(cases)  # one for each repository
    assert any("averysecret" in str(headers) for headers in hub.headers)  # it is used
    assert "averysecret" not in done.out + json.dumps(records())


ADD = "from rosa_bench.cli.main import main; main(['models', 'add', 'someone/encoder', 'name=mine'])"


@pytest.mark.long
def test_any_model_of_the_hub_runs_by_its_id_and_as_a_yaml_of_ones_own(
    hub: Any, made: dict[str, dict[str, bytes]], run: Callable, program: Callable, records: Callable
) -> None:
    commit = hub.put("someone/encoder", made["tiny_roberta"])
    done = run("task=cola", "model=auto", "model.hub=someone/encoder", "method=lora")
    assert done.status == 0, done.out
    added = program(["-c", ADD])
    assert added.status == 0, added.out
    done = run("--config-dir", "my_conf", "task=cola", "model=mine", "method=lora")
    assert done.status == 0, done.out
    found, own = records()
    assert [record["model"]["commit"] for record in (found, own)] == [commit, commit]
    assert [record["config"]["model"]["attention"] for record in (found, own)] == 2 * [
        found["config"]["model"]["attention"]
    ]
    assert own["scores"]["selected"] == found["scores"]["selected"]


@pytest.mark.long
def test_a_second_run_needs_no_hub_and_says_so(hub: Any, run: Callable, records: Callable, faults: Any) -> None:
    assert run(*COLA).status == 0
    hub.fault = faults.black_hole
    done = run(*COLA, "seed=1")
    assert done.status == 0, done.out
    for name in ("nyu-mll/glue", "FacebookAI/roberta-base"):
        assert f"127.0.0.1 does not answer within 2 s; going on with the cached copy of {name}" in done.out
    first, second = records()
    assert first["model"] == second["model"]
    assert first["data"]["commit"] == second["data"]["commit"]
    before = len(hub.requests)
    assert run(*COLA).status == 0  # completed already
    assert len(hub.requests) == before


@pytest.mark.parametrize(
    "fault", ["portal", *(pytest.param(name, marks=pytest.mark.long) for name in ("401", "black_hole"))]
)
def test_a_run_that_cannot_be_fetched_is_refused_in_one_line(hub: Any, run: Callable, faults: Any, fault: str) -> None:
    hub.fault = faults.status(int(fault)) if fault.isdigit() else getattr(faults, fault)
    run(*COLA).assert_refused(
        "model=roberta_base cannot be fetched", "is not cached on this machine", "connect to the network",
        "model.path=FOLDER",
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    "endpoint", ["hub.example", "/srv/hub", "", "ftp://hub.example", "http://", "https://[", "http://a b"]
)
def test_an_endpoint_that_is_no_address_is_one_line(run: Callable, endpoint: str) -> None:
    run(*COLA, HF_ENDPOINT=endpoint).assert_refused("HF_ENDPOINT", "https://huggingface.co")


@pytest.mark.long
def test_a_proxy_is_respected(hub: Any, run: Callable) -> None:
    endpoint = "http://hub.example"  # which nobody can reach, but the proxy answers
    done = run(*COLA, HF_ENDPOINT=endpoint, HTTP_PROXY=hub.url, NO_PROXY=None, no_proxy=None)
    assert any("hub.example" in headers.get("Host", "") for headers in hub.headers), done.out


def test_a_resumed_run_keeps_the_commits_of_its_checkpoint(
    hub: Any, runs: Callable, records: Callable, interrupt: Callable, moved: Callable
) -> None:
    before = commits(hub)
    data, weights = before
    interrupt(*COLA, *LONG)
    moved()
    done = runs(
        [*COLA, *LONG],
        [*COLA, *LONG, f"task.hub.revision={data}", f"model.revision={weights}"],  # another id
        [*COLA, *LONG, "resume=never"],
    )
    assert done.status == 0, done.out
    assert done.out.count("continuing from step") == 1, done.out
    [resumed] = [record for record in records("superseded/*.json") if record["status"] == "completed"]
    assert (resumed["data"]["commit"], resumed["model"]["commit"]) == before != commits(hub)
    by_commit = {it["data"]["commit"]: it for it in records()}
    assert set(by_commit) == {data, commits(hub)[0]}
    assert without_times(resumed) == without_times(by_commit[data])
    assert without_times(resumed) != without_times(by_commit[commits(hub)[0]])


def commits(hub: Any) -> tuple[str, str]:
    repositories = (("dataset", "nyu-mll/glue"), ("model", "FacebookAI/roberta-base"))
    data, weights = (hub.repositories[it].branches["main"] for it in repositories)
    return data, weights


def without_times(record: dict[str, Any]) -> list[Any]:
    epochs = [{**epoch, "time_s": None} for epoch in record["scores"]["epochs"]]
    return [epochs, record["scores"]["last"], record["data"]["fingerprint"]]


@pytest.fixture
def moved(hub: Any, other_cola: dict[str, bytes]) -> Callable[[], None]:
    """``moved()``: both repositories have a new commit on main, the weights with one number changed."""

    def act() -> None:
        files = hub.repositories["model", "FacebookAI/roberta-base"].commits[commits(hub)[1]]
        changed = {path: it.content for path, it in files.items()}
        weights = bytearray(changed["model.safetensors"])
        weights[-1] ^= 4
        hub.put("FacebookAI/roberta-base", {**changed, "model.safetensors": bytes(weights)})
        hub.put("nyu-mll/glue", other_cola, kind="dataset")

    return act


@pytest.mark.long
def test_files_damaged_in_the_cache_are_mended_and_the_run_is_the_same(
    run: Callable, records: Callable, tmp_path: Path
) -> None:
    assert run(*COLA).status == 0
    [before] = records()
    links = [path for path in (tmp_path / "hf").rglob("*") if path.is_symlink()]
    names = {"model.safetensors", "tokenizer.json", "train-00000-of-00001.parquet"}
    damaged = [path for path in links if path.name in names]
    assert {path.name for path in damaged} == names
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[-40] ^= 1
        path.resolve().write_bytes(bytes(content))
    done = run(*COLA, "resume=never")
    for path in damaged:
        assert f"{path} is damaged in the hub's cache; fetching it again" in done.out
    [after] = records()
    assert without_times(after) == without_times(before)


@pytest.mark.long
def test_a_repository_without_safetensors_is_refused_and_nothing_is_downloaded_or_converted(
    hub: Any, run: Callable
) -> None:
    hub.put("FacebookAI/roberta-base", {"config.json": b"{}", "pytorch_model.bin": b"x" * 1000})
    done = run(*COLA)
    done.assert_refused("FacebookAI/roberta-base on the hub is not a model in safetensors format")
    assert hub.downloads() == []
    assert not [request for request in hub.requests if "discussions" in request or "pulls" in request]


@pytest.mark.long
def test_a_commit_that_is_gone_is_refused_with_the_way_out(
    hub: Any, run: Callable, interrupt: Callable, moved: Callable, tmp_path: Path
) -> None:
    interrupt(*COLA, *LONG)
    repository = hub.repositories["dataset", "nyu-mll/glue"]
    before = repository.branches["main"]
    moved()
    del repository.commits[before]
    done = run(*COLA, *LONG, HF_HOME=str(tmp_path / "another"), ROSA_BENCH_CACHE=str(tmp_path / "another"))
    done.assert_refused("task=cola", before, "does not have this revision", "resume=never")


def test_classes_in_another_order_are_refused(hub: Any, run: Callable, reversed_cola: dict[str, bytes]) -> None:
    hub.put("nyu-mll/glue", reversed_cola, kind="dataset")
    run(*COLA).assert_refused("nyu-mll/glue", "acceptable, unacceptable", "unacceptable, acceptable")
