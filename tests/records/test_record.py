import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rosa_bench.config.identity import public_config
from rosa_bench.config.schema import RunConfig
from rosa_bench.records.record import SCHEMA, RunRecord
from rosa_bench.records.store import load_record, load_records, runs_folder, save_record
from rosa_bench.runs.resolve import resolve
from rosa_bench.system.errors import UserError

Compose = Callable[..., RunConfig]
Name = Callable[..., str]

TINY = ("task=grammar", "model=tiny_roberta", "method=lora", "lr=2e-4", "device=cpu")


def record(status: str = "completed", **changes: Any) -> RunRecord:
    named = {"name": "x", "title": "é — 漢"}
    config = {
        "lr": 1e-3, "seed": 0, "epochs": 1, "batch_size": 4, "max_length": None, "limit_train": None,
        "task": {**named, "train": "train", "validation": "dev"}, "model": named, "method": named, "protocol": named,
    }  # fmt: skip
    data = {"source": "files", "fingerprint": "0", "synthetic": False, "subset": False, "official_rows": {"train": 3}}
    figure = {"accuracy": 0.1 + 0.2}
    scores = {
        "reported": "accuracy", "selected_on": "held_out", "selection_score": 0.5, "selected": figure, "last": figure,
        "epochs": [{"train_loss": float("inf"), "scores": {**figure, "loss": 2}, "time_s": 1.5}],
    }  # fmt: skip
    settings: dict[str, Any] = {
        "id": "cola-tiny-lora-r2-lr0.001-s0-0123456789", "config": config, "deviations": {"epochs": [1, 10]},
        "data": {**data, "rows": {"train": 3, "held_out": 0, "validation": 2}}, "model": {"source": "random"},
        "device": {"type": "cpu", "name": "x", "precision": "float32"}, "versions": {}, "git": {},
        "started_at": "2026-01-02T03:04:05+00:00", "parameters": {"trainable": 5}, "scores": scores,
    }  # fmt: skip
    return RunRecord(**{"status": status, **settings, **changes})


# The name of a run


@pytest.fixture
def name(compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Name:
    """``name("lr=1")``: what the run of such a command line is called, with a tiny model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rosa_bench.runs.resolve.check_compiler", lambda _choice: None)  # whether there is one or not
    return lambda *overrides: resolve(compose(*TINY, *overrides), {}).id


@pytest.mark.parametrize("override", [
    "lr=0.5", "seed=1", "epochs=3", "rank=2", "batch_size=16", "accumulate=2", "max_length=64", "pad_to_max=true",
    "group_by_length=true", "compile=default", "compile=max",
    "limit_train=8", "limit_eval=8", "precision=bfloat16", "protocol=fair", "protocol.held_out_rows=0.2",
    "protocol.train_head=true", "optimizer.weight_decay=0", "optimizer.betas=[0.9,0.999]", "optimizer.clip_norm=1",
    "optimizer.warmup_steps=5",
    "method=rosa", "method=ft", "method.alpha=3", "method.init=kaiming", "method.targets=all-linear",
    "method.train_biases=false", "model=tiny_bert", "model.random.hidden_size=64", "model.head=nothing",
    "model.attention=query", "task.metric=accuracy", "task.score=accuracy", "+task.marker=_",
])  # fmt: skip
def test_whatever_can_change_a_figure_changes_the_name(name: Name, override: str) -> None:
    assert name(override) != name()


@pytest.mark.parametrize("override", ["method.resample_every=1", "method.resample_unit=steps", "method.select=top"])
def test_whatever_can_change_rosas_figures_changes_the_name(name: Name, override: str) -> None:
    assert name("method=rosa", override) != name("method=rosa")


@pytest.mark.parametrize("overrides", [
    ["results_dir=elsewhere"], ["output_dir=elsewhere"], ["resume=never"], ["save_model=true"],
    ["record_spectrum=true"], ["retry_failed=true"], ["checkpoint_s=5"],
    ["cuda_graphs=never"], ["cuda_graphs=always"], ["compile=none"], ["group_by_length=false"],
    ["method.default_lr.paper=0.5"], ["lr=0.0002"], ["rank=8"], ["task.title=Other"], ["model.title=Other"],
    ["method.title=Other"], ["protocol.title=Other"], ["model.licence=Other"], ["model.note=Other"],
    ["task.rows.train=5"], ["precision=float32"], ["data_dir=."],
])  # fmt: skip
def test_nothing_else_does(name: Name, overrides: list[str]) -> None:
    assert name(*overrides) == name()


def test_a_run_is_named_as_before_a_setting_was_added(compose: Compose, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rosa_bench.runs.resolve.check_compiler", lambda _choice: None)
    known = resolve(compose(*TINY), {}).identity
    for name in ("pad_to_max", "group_by_length", "compile", "lm_head", "fused", "split_qkv", "schedule"):
        assert f'"{name}"' not in json.dumps(known)
    assert "name" not in known["optimizer"]
    for key, value in (("pad_to_max", True), ("group_by_length", True), ("compile", "default")):
        identity = resolve(compose(*TINY, f"{key}={str(value).lower()}"), {}).identity
        assert identity == {**known, key: value}


@pytest.mark.skipif(torch.cuda.is_available(), reason="device=auto means another device")
def test_auto_is_the_device_that_it_means(name: Name) -> None:
    assert name("device=auto") == name("device=cpu")


@pytest.mark.parametrize("method", ["ft", "ia3", "bitfit", "head_only"])
def test_the_rank_means_nothing_to_a_method_without_one(name: Name, method: str) -> None:
    assert name(f"method={method}", "rank=2") == name(f"method={method}", "rank=8")


def test_the_name_begins_with_what_a_person_looks_for(name: Name) -> None:
    assert re.fullmatch(r"grammar-tiny_roberta-lora-r4-lr0\.002-s3-[0-9a-f]{10}", name("rank=4", "lr=2e-3", "seed=3"))
    assert re.fullmatch(r"grammar-tiny_roberta-ft-lr0\.0002-s0-[0-9a-f]{10}", name("method=ft"))


def write_data(folder: Path, train: str, validation: str) -> Path:
    (folder / "glue/cola").mkdir(parents=True)
    (folder / "glue/cola/train.jsonl").write_text(train)
    (folder / "glue/cola/validation.jsonl").write_text(validation)
    return folder


def test_data_counts_by_its_bytes_and_not_by_its_place(name: Name, tmp_path: Path) -> None:
    rows = [f'{{"sentence": "{letter}", "label": 1}}\n' for letter in "abc"]
    folders = {
        "original": (rows[0] + rows[1], rows[2]),
        "copy": (rows[0] + rows[1], rows[2]),
        "another row": (rows[0] + rows[2], rows[2]),
        "another order": (rows[1] + rows[0], rows[2]),
        "another split": (rows[0], rows[1] + rows[2]),
    }
    names = {
        key: name("task=cola", f"data_dir='{write_data(tmp_path / key, *texts)}'") for key, texts in folders.items()
    }
    assert names["original"] == names["copy"]
    assert names["another row"] != names["original"]
    assert names["another order"] != names["original"]
    assert names["another split"] != names["original"]
    assert name("task=cola") != names["original"]  # the hub's


def write_model(folder: Path, config: str, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_weights_count_by_their_bytes_and_not_by_their_place(name: Name, tmp_path: Path) -> None:
    folders = {"original": ("{}", b"1"), "copy": ("{}", b"1"), "weights": ("{}", b"2"), "shape": ("{ }", b"1")}
    names = {key: name(f"+model.path={write_model(tmp_path / key, *of)}") for key, of in folders.items()}
    assert names["original"] == names["copy"]
    assert len({names["original"], names["weights"], names["shape"], name()}) == 4


def test_a_model_of_another_revision_is_another(name: Name) -> None:
    hub = ("model=roberta_base", "rank=8")
    assert name(*hub, "+model.revision=abc") != name(*hub)


def test_the_public_configuration_says_nothing_of_the_machine(compose: Compose) -> None:
    config = compose(
        *TINY, "data_dir=/home/me/d", "output_dir=/home/me/o", "results_dir=/home/me/r", "+model.path=/home/me/m"
    )
    assert "/home/me" not in json.dumps(public_config(config))
    unpublished = {"default_init"}
    shown = {key: value for key, value in asdict(config.method).items() if key not in unpublished}
    assert public_config(config)["method"] == shown


# On disk


@pytest.mark.parametrize("status", ["completed", "failed", "interrupted"])
def test_a_record_comes_back_as_it_was(tmp_path: Path, status: str) -> None:
    written = record(status, error="because" if status == "failed" else None)
    path = save_record(written, tmp_path)
    assert path == tmp_path / "runs" / f"{written.id}.json"
    assert load_record(path) == written
    assert load_records(tmp_path) == [written]


def test_a_reader_in_another_program_finds_plain_json(tmp_path: Path) -> None:
    values = json.loads(save_record(record(), tmp_path).read_bytes().decode("utf-8"))
    assert values["status"] == "completed"
    assert values["schema"] == SCHEMA
    assert values["scores"]["selected"]["accuracy"] == 0.1 + 0.2  # every digit
    assert values["config"]["task"]["title"] == "é — 漢"


def test_no_record_is_none_and_a_folder_without_any_is_empty(tmp_path: Path) -> None:
    assert load_records(tmp_path) == []


@pytest.mark.parametrize("status", ["completed", "failed", "interrupted"])
@pytest.mark.parametrize("earlier_status", ["failed", "interrupted"])
def test_an_earlier_record_makes_room_and_is_kept(tmp_path: Path, earlier_status: str, status: str) -> None:
    earlier = save_record(record(earlier_status), tmp_path).read_bytes()
    later = record(status, started_at="2026-01-02T04:00:00+00:00")
    assert load_record(save_record(later, tmp_path)) == later
    assert load_records(tmp_path) == [later]
    [aside] = (runs_folder(tmp_path) / "superseded").iterdir()
    assert aside.read_bytes() == earlier


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_completed_record_makes_room_only_for_a_completed_one(tmp_path: Path, status: str) -> None:
    completed = record()
    before = save_record(completed, tmp_path).read_bytes()
    broken = record(status, started_at="2026-01-02T04:00:00+00:00")
    path = save_record(broken, tmp_path)
    assert load_record(path) == broken
    assert path.parent == runs_folder(tmp_path) / "superseded"
    assert load_records(tmp_path) == [completed]
    assert (runs_folder(tmp_path) / completed.path_name).read_bytes() == before


def test_no_record_is_ever_lost(tmp_path: Path) -> None:
    # Short runs begin within the same second, which is all that `started_at` tells.
    versions = [record(versions={"number": number}) for number in range(4)]
    for version in versions:
        save_record(version, tmp_path)
    kept = [load_record(path) for path in runs_folder(tmp_path).rglob("*.json")]
    assert sorted(one.versions["number"] for one in kept) == [0, 1, 2, 3]


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
def test_a_damaged_record_is_told_with_its_file(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    path = runs_folder(tmp_path) / "cola-x.json"
    path.parent.mkdir()
    text = DAMAGED[kind]
    path.write_bytes(b'{"id": "\xff"}' if text is None else text.encode())
    before = path.read_bytes()
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))} is not a run's record: .*; mend it or") as raised:
        load_record(path)
    assert load_records(tmp_path) == []
    assert caplog.messages == [str(raised.value)]
    assert "\n" not in caplog.text.rstrip("\n")
    assert path.read_bytes() == before


FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "a part gone": ({"config": {"lr": 1e-3}}, "config.seed is missing"),
    "no task": ({"config": {**record().config, "task": None}}, "config.task is null"),
    "scores in a list": ({"scores": []}, "scores is []"),
    "a text for a number": ({"parameters": {"trainable": "5"}}, 'parameters.trainable is "5"'),
    "a number for a text": ({"id": 5}, "id is 5"),
    "rows of another kind": ({"data": {**record().data, "rows": 3}}, "data.rows is 3"),
    "no pair": ({"deviations": {"epochs": [1]}}, "deviations.epochs is [1]"),
    "no moment": ({"started_at": "yesterday"}, 'started_at is "yesterday"'),
    "a number for a moment": ({"started_at": 2026}, "started_at is 2026"),
    "no time zone": ({"started_at": "2026-01-02T03:04:05"}, "started_at is"),
    "another figure": ({"scores": {**record().scores, "reported": "f1"}}, "scores.epochs.0.scores.f1 is missing"),
    "no figure": ({"scores": {}}, "scores.reported is missing"),
    "another selection": ({"scores": {**record().scores, "selected_on": []}}, "selected_on is [], not one of held_out"),
    "half a spectrum": ({"spectrum": {"ranks": [1]}}, 'spectrum is {"ranks": [1]}'),
    "schema 0": ({"schema": 0}, "schema is 0"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_record_of_ours_is_told_with_the_place(tmp_path: Path, kind: str) -> None:
    changes, reason = FOREIGN[kind]
    path = runs_folder(tmp_path) / "x.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**asdict(record()), **changes}))
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))} is not a run's record: .*{re.escape(reason)}"):
        load_record(path)


def test_what_broke_off_needs_no_scores(tmp_path: Path) -> None:
    for status in ("failed", "interrupted", "running"):
        save_record(record(status, id=status, scores={}, parameters={}), tmp_path)
    assert len(load_records(tmp_path)) == 3


def test_good_records_are_read_beside_bad_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = record()
    folder = save_record(good, tmp_path).parent
    for number, text in enumerate(["", '{"id": "x", "sta', "[1, 2]", '{"name": "rosa"}']):
        (folder / f"{number}.json").write_text(text)
    (folder / "link.json").symlink_to("nowhere")
    (folder / "folder.json").mkdir()
    later = {**asdict(good), "schema": SCHEMA + 1}
    (folder / "later.json").write_text(json.dumps(later))
    found = load_records(tmp_path)
    assert found == [good]
    assert found.unread == f"7 of 8 files in {folder} could not be read; see above"
    names = ["0.json", "1.json", "2.json", "3.json", "folder.json", "later.json", "link.json"]
    assert [message.partition(" ")[0] for message in caplog.messages] == [str(folder / name) for name in names]


def test_with_good_records_alone_there_is_nothing_to_tell(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_record(record(), tmp_path)
    found = load_records(tmp_path)
    found.remind()
    assert (found.unread, caplog.messages) == ("", [])


def test_what_a_run_found_is_not_lost_because_an_earlier_record_is_damaged(tmp_path: Path) -> None:
    path = runs_folder(tmp_path) / record().path_name
    path.parent.mkdir()
    path.write_text("half a reco")
    save_record(record(), tmp_path)  # at the end of a run, hours after it began
    kept = [found.read_text() for found in runs_folder(tmp_path).rglob("*.json")]
    assert "half a reco" in kept
    assert json.dumps(asdict(record()), indent=1, ensure_ascii=False) + "\n" in kept


def test_another_schema_is_told(tmp_path: Path) -> None:
    path = save_record(replace(record(), schema=SCHEMA + 1), tmp_path)
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}.*schema {SCHEMA + 1}.*{SCHEMA}"):
        load_record(path)


def test_a_field_of_a_later_version_does_not_hide_a_record(tmp_path: Path) -> None:
    path = save_record(record(), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))
    assert load_record(path) == record()
