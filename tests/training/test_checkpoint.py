import errno
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from rosa_bench.system.errors import UserError
from rosa_bench.training import checkpoint
from rosa_bench.training.checkpoint import (
    Checkpoints,
    MisfitError,
    Snapshot,
    differences,
    joined,
    random_state,
    restore_random_state,
)

CPU = torch.device("cpu")
IDENTITY = {"lr": 1e-3, "method": {"name": "lora", "rank": 4}, "betas": (0.9, 0.98)}


def checkpoints(folder: Path, *, every_s: float = 0, **changes: Any) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", {**IDENTITY, **changes}, every_s=every_s)


def snapshot(number: int = 0) -> Snapshot:
    tensors = {
        "float": torch.randn(3, 4),
        "turned": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
        "scalar": torch.tensor(float(number)),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "half": torch.randn(2).bfloat16(),
        "odd": torch.tensor([float("nan"), float("-inf"), -0.0]),
        "empty": torch.zeros(0, 2),
    }
    return Snapshot(tensors, {"step": number, "history": [{"loss": 0.1 + 0.2}], "score": None})


def assert_same(found: Snapshot | None, expected: Snapshot) -> None:
    assert found is not None
    assert found.values == expected.values
    assert set(found.tensors) == set(expected.tensors)
    for name, tensor in expected.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert found.tensors[name].shape == tensor.shape
        assert bits(found.tensors[name]) == bits(tensor)


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.contiguous().reshape(-1, 1).view(torch.uint8).flatten().tolist()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


# Save and load


def test_a_snapshot_is_restored_bit_for_bit(tmp_path: Path) -> None:
    written = snapshot(3)
    checkpoints(tmp_path).save(3, 0, written)
    assert_same(checkpoints(tmp_path).load(), written)
    assert_same(checkpoints(tmp_path).load(), written)  # loading does not remove it


@pytest.mark.parametrize("value", [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, float("inf"), float("nan")])
def test_floats_are_restored_bit_for_bit(tmp_path: Path, value: float) -> None:
    checkpoints(tmp_path).save(1, 0, Snapshot({}, {"value": value}))
    found = checkpoints(tmp_path).load()
    assert found is not None
    assert np.float64(found.values["value"]).tobytes() == np.float64(value).tobytes()


def test_load_without_a_checkpoint_returns_none(tmp_path: Path) -> None:
    assert checkpoints(tmp_path).load() is None
    checkpoints(tmp_path).clear()
    (tmp_path / "checkpoints").mkdir()
    assert checkpoints(tmp_path).load() is None


PARTS = st.dictionaries(
    st.text("ab", min_size=1, max_size=3),
    st.tuples(
        st.dictionaries(st.text("ab._", max_size=4), st.integers().map(lambda _: torch.zeros(1))),
        st.dictionaries(st.text("ab.", max_size=4), st.one_of(st.integers(), st.none(), st.text(max_size=2))),
    ).map(lambda both: Snapshot(*both)),
)


@settings(max_examples=30)
@given(PARTS)
def test_part_inverts_joined(parts: dict[str, Snapshot]) -> None:
    whole = joined(**parts)
    assert len(whole.tensors) == sum(len(part.tensors) for part in parts.values())
    for name, part in parts.items():
        found = whole.part(name)
        assert found.values == part.values
        assert found.tensors.keys() == part.tensors.keys()
        assert all(found.tensors[key] is tensor for key, tensor in part.tensors.items())


@settings(max_examples=30)
@given(PARTS)
def test_parts_can_be_nested(parts: dict[str, Snapshot]) -> None:
    found = joined(outer=joined(**parts), a=Snapshot({"outer.a": torch.ones(1)}, {})).part("outer")
    for name, part in parts.items():
        assert found.part(name).tensors.keys() == part.tensors.keys()


def test_a_part_that_was_not_joined_is_empty() -> None:
    assert joined(one=snapshot()).part("on") == Snapshot({}, {})


# Which checkpoint is loaded


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    for step, epochs in ((1, 0), (9, 0), (10, 0), (10, 1), (100, 1)):
        checkpoints(tmp_path).save(step, epochs, snapshot(step))
        assert names(tmp_path) == [f"step-{step:09d}-epochs-{epochs:06d}"]
        found = checkpoints(tmp_path).load()
        assert found is not None and found.values["step"] == step


def several(folder: Path, *steps: int) -> list[Path]:
    """Two checkpoints, as left by a process that was killed before it removed the older one."""
    store, found = checkpoints(folder), []
    for step in steps:
        aside = [path.rename(folder / path.name) for path in found]
        store.save(step, 0, snapshot(step))
        found = [path.rename(store.folder / path.name) for path in aside]
        found += [path for path in store.folder.iterdir() if path not in found]
    return sorted(store.folder.iterdir())


def test_the_newest_checkpoint_is_loaded(tmp_path: Path) -> None:
    assert len(several(tmp_path, 9, 10, 2)) == 3
    found = checkpoints(tmp_path).load()
    assert found is not None and found.values["step"] == 10


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("file", [checkpoint.TENSORS, checkpoint.VALUES])
@pytest.mark.parametrize(("damage", "words"), [
    (cut, "it is damaged: {file} "), (empty, "it is damaged: {file} "), (zero, "it is damaged: {file} "),
    (Path.unlink, "it cannot be read (No such file or directory"), (folder_instead, "it cannot be read ("),
])  # fmt: skip
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, damage: Callable[[Path], None], words: str
) -> None:
    *_, newest = several(tmp_path, 3, 7)
    damage(newest / file)
    found = checkpoints(tmp_path).load()
    assert found is not None and found.values["step"] == 3
    [message] = caplog.messages
    assert message.startswith(f"skipping {newest}: {words.format(file=file)}")
    checkpoints(tmp_path).save(7, 0, snapshot(8))  # replaces the damaged one
    found = checkpoints(tmp_path).load()
    assert found is not None and found.values["step"] == 8
    assert names(tmp_path) == [newest.name]


@pytest.mark.parametrize("text", ["[]", "null", "3", "{}", '{"step": 3}'])
def test_values_of_the_wrong_form_count_as_damage(tmp_path: Path, text: str) -> None:
    *_, newest = several(tmp_path, 3, 7)
    (newest / checkpoint.VALUES).write_text(text)
    found = checkpoints(tmp_path).load()
    assert found is not None and found.values["step"] == 3


def test_load_returns_none_if_all_are_damaged(tmp_path: Path) -> None:
    for path in several(tmp_path, 3, 7):
        cut(path / checkpoint.TENSORS)
    assert checkpoints(tmp_path).load() is None


# Checkpoints of another run


@pytest.mark.parametrize(("changes", "difference"), [
    ({"lr": 2e-3}, "lr: 0.001, here 0.002"),
    ({"method": {"name": "lora", "rank": 8}}, "method.rank: 4, here 8"),
    ({"method": {"name": "rosa", "rank": 8}}, "method.name: lora, here rosa, method.rank: 4, here 8"),
    ({"seed": 1}, "seed: None, here 1"),
    ({"betas": (0.9, 0.999)}, "betas: [0.9, 0.98], here [0.9, 0.999]"),
])  # fmt: skip
def test_another_runs_checkpoint_is_refused_and_differences_are_named(
    tmp_path: Path, changes: dict[str, Any], difference: str
) -> None:
    checkpoints(tmp_path).save(5, 0, snapshot())
    with pytest.raises(UserError) as caught:
        checkpoints(tmp_path, **changes).load()
    message = str(caught.value)
    assert f"({difference})" in message
    assert "\n" not in message
    assert names(tmp_path)[0] in message and "resume=never" in message
    assert names(tmp_path) == ["step-000000005-epochs-000000"]


def test_equal_values_have_no_differences() -> None:
    assert differences({"a": {"b": [1, {"c": None}]}}, {"a": {"b": [1, {"c": None}]}}) == []
    assert differences({"a": {"b": 1}}, {"a": 1}) == ["a: {'b': 1}, here 1"]


# A full disk


def no_space(*_arguments: object, **_options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_written(tensors: dict[str, torch.Tensor], path: Path) -> None:
    path.write_bytes(b"\x00" * 20)
    no_space()


@pytest.mark.parametrize(("target", "name", "failing"), [
    (checkpoint, "save_file", half_written), (os, "fsync", no_space), (Path, "write_text", no_space),
    (Path, "rename", no_space),
])  # fmt: skip
def test_a_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: object, name: str, failing: Callable[..., None]
) -> None:
    store, before = checkpoints(tmp_path), snapshot(4)
    store.save(4, 0, before)
    with monkeypatch.context() as patched:
        patched.setattr(target, name, failing)
        with pytest.raises(OSError, match="No space left"):
            store.save(5, 0, snapshot(5))
    assert names(tmp_path) == ["step-000000004-epochs-000000"]
    assert_same(checkpoints(tmp_path).load(), before)


def test_unfinished_checkpoints_of_killed_processes_are_removed(tmp_path: Path) -> None:
    checkpoints(tmp_path).save(4, 0, snapshot(4))
    [path] = (tmp_path / "checkpoints").iterdir()
    for name in (".step-000000005-epochs-000000.x1y2", ".step-000000004-epochs-000000.earlier"):
        path.rename(path.with_name("aside"))
        (path.with_name(name)).mkdir()
        (path.with_name(name) / checkpoint.TENSORS).write_bytes(b"half")
        path.with_name("aside").rename(path)
    found = checkpoints(tmp_path).load()
    assert found is not None and found.values["step"] == 4
    assert names(tmp_path) == [path.name]


def test_the_old_checkpoint_stays_until_the_new_one_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = checkpoints(tmp_path)
    store.save(4, 0, snapshot(4))
    seen = []
    real = os.fsync

    def fsync(handle: int) -> None:
        whole = [path for path in store.folder.glob("step-*") if load_file(path / checkpoint.TENSORS)]
        seen.append([path.name[:14] for path in sorted(whole)])
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    store.save(5, 0, snapshot(5))
    # Both files are synced, then the directory; only then is the older checkpoint removed.
    assert seen == [["step-000000004"]] * 2 + [["step-000000004", "step-000000005"]]


# Nothing is executed


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_is_two_files_and_neither_is_a_pickle(tmp_path: Path) -> None:
    checkpoints(tmp_path).save(1, 0, snapshot())
    [path] = (tmp_path / "checkpoints").iterdir()
    assert {file.name for file in path.iterdir()} == {"tensors.safetensors", "values.json"}
    assert json.loads((path / "values.json").read_text())["step"] == 0
    assert load_file(path / "tensors.safetensors").keys() == snapshot().tensors.keys()
    for file in path.iterdir():
        with pytest.raises(Exception, match=r".+"):  # any error that pickle raises
            pickle.loads(file.read_bytes())


@pytest.mark.parametrize("file", [checkpoint.TENSORS, checkpoint.VALUES])
@pytest.mark.parametrize("dump", [lambda trap, path: path.write_bytes(pickle.dumps(trap)), torch.save])
def test_a_pickle_in_place_of_a_file_is_not_executed(tmp_path: Path, file: str, dump: Callable[..., Any]) -> None:
    checkpoints(tmp_path).save(1, 0, snapshot())
    [path] = (tmp_path / "checkpoints").iterdir()
    trap = tmp_path / "sprung"
    dump(Trap(trap), path / file)
    assert checkpoints(tmp_path).load() is None
    assert not trap.exists()


# When a checkpoint is due


def test_a_checkpoint_is_due_after_enough_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    store = checkpoints(tmp_path, every_s=60)
    for later, due in ((0, False), (59, False), (60, True), (1000, True)):
        now[0] = 100.0 + later
        assert store.due() == due
    store.save(1, 0, snapshot())
    assert not store.due()
    now[0] += 60
    assert store.due()


def test_an_interval_of_zero_is_always_due(tmp_path: Path) -> None:
    store = checkpoints(tmp_path)
    assert store.due()
    store.save(1, 0, snapshot())
    assert store.due()


def test_clear_removes_all_checkpoints(tmp_path: Path) -> None:
    store = checkpoints(tmp_path)
    store.save(1, 0, snapshot())
    (tmp_path / "other").touch()
    store.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert store.load() is None


# Random generators


def drawn() -> list[Any]:
    return [torch.rand(3).tolist(), random.random(), random.gauss(0, 1), np.random.rand(2).tolist(), np.random.randn()]


def test_every_random_generator_resumes_its_sequence(tmp_path: Path) -> None:
    drawn()  # normal numbers come in pairs, and the second is kept for the next call
    checkpoints(tmp_path).save(1, 0, random_state(CPU))
    expected = drawn()
    assert drawn() != expected
    found = checkpoints(tmp_path).load()
    assert found is not None
    restore_random_state(found, CPU)
    assert drawn() == expected


# The inputs


def test_a_checkpoint_of_other_rows_or_weights_is_refused(tmp_path: Path) -> None:
    inputs = {"weights_commit": "a", "rows_commit": "b", "rows_fingerprint": "c"}
    made = checkpoints(tmp_path)
    assert made.inputs_of_newest() == {}
    made.inputs = inputs
    made.save(1, 0, snapshot())
    assert checkpoints(tmp_path).inputs_of_newest() == inputs
    for name, value in inputs.items():
        other = checkpoints(tmp_path)
        other.inputs = {**inputs, name: "z"}
        with pytest.raises(UserError, match=rf"other rows or weights \({name}: {value}, here z\).*resume=never"):
            other.load()
    made.inputs = dict(inputs)
    assert made.load() is not None


def test_a_damaged_checkpoint_pins_no_commit(tmp_path: Path) -> None:
    made = checkpoints(tmp_path)
    made.inputs = {"weights_commit": "abcdef0"}
    made.save(1, 0, snapshot())
    (path,) = (tmp_path / "checkpoints").glob("step-*")
    values = path / checkpoint.VALUES
    values.write_text(values.read_text().replace("abcdef0", "abcdee0"))
    assert checkpoints(tmp_path).inputs_of_newest() == {}
    assert checkpoints(tmp_path).load() is None


# Digests


@pytest.mark.parametrize("bit", range(8))
def test_every_bit_of_a_tensor_is_checked(tmp_path: Path, bit: int) -> None:
    *_, newest = several(tmp_path, 3, 7)
    content = bytearray((newest / checkpoint.TENSORS).read_bytes())
    content[-1] ^= 1 << bit
    (newest / checkpoint.TENSORS).write_bytes(content)
    found = checkpoints(tmp_path).load()
    assert found is not None and found.values["step"] == 3


def test_names_types_and_shapes_of_tensors_are_checked() -> None:
    """All of these have the same bytes, and their file could be damaged in its header alone."""
    zeros = torch.zeros(4)
    states = [
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.reshape(2, 2)},
        {"a": zeros.int()},
        {"a": zeros[:2], "b": zeros[2:]},
    ]
    assert len({Snapshot(tensors, {}).digest for tensors in states}) == len(states)


def test_a_checkpoint_without_a_digest_is_skipped_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints(tmp_path).save(7, 0, snapshot(7))
    [path] = (tmp_path / "checkpoints").glob("*/values.json")
    values = json.loads(path.read_text())
    del values[checkpoint.DIGEST]
    path.write_text(json.dumps(values))
    assert checkpoints(tmp_path).load() is None
    assert "it has no digest, as those of earlier versions" in caplog.text


def test_a_checkpoint_that_does_not_fit_is_skipped_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def check(state: Snapshot) -> None:
        if state.values["step"] == 7:
            raise MisfitError("its step is 7")

    *_, newest = several(tmp_path, 3, 7)
    found = checkpoints(tmp_path).load(check)
    assert found is not None and found.values["step"] == 3
    assert caplog.messages == [f"skipping {newest}: its step is 7"]
