from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from rosa_bench.config.schema import RunConfig
from rosa_bench.records.parts.measured import Spectrum, WeightSpectrum
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import runs_folder, save_record
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.status import status_of
from rosa_bench.system.errors import UserError

MakeSetup = Callable[..., ResolvedRun]
Leave = Callable[[ResolvedRun, str], RunRecord]


@pytest.fixture
def make_setup(compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSetup:
    """``make_setup("lr=1")``: a run with these overrides in an empty folder, not started."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: resolve(compose("task=grammar", "model=tiny_bert", "device=cpu", *overrides), {})


@pytest.fixture
def leave(make_record: Callable[..., RunRecord]) -> Callable[[ResolvedRun, str], RunRecord]:
    """``leave(resolved, "failed")``: save a record of that run with this status."""

    def make(resolved: ResolvedRun, status: str) -> RunRecord:
        record = make_record("task=grammar", "model=tiny_bert", id=resolved.id, status=status)
        save_record(record, resolved.results_dir)
        return record

    return make


def leave_checkpoint(resolved: ResolvedRun, name: str = "step-000000003-epochs-000000") -> None:
    (resolved.checkpoints / name).mkdir(parents=True)


def test_a_run_without_record_or_checkpoint_is_new(make_setup: MakeSetup, leave: Leave) -> None:
    resolved = make_setup()
    leave(make_setup("seed=1"), "completed")  # another run
    assert status_of(resolved) == ("new", None)


def test_an_unfinished_checkpoint_folder_does_not_count(make_setup: MakeSetup) -> None:
    leave_checkpoint(make_setup(), ".step-000000003-epochs-000000.a1b2")
    assert status_of(make_setup()) == ("new", None)


def test_a_run_with_only_a_checkpoint_is_unfinished(make_setup: MakeSetup) -> None:
    leave_checkpoint(make_setup())
    assert status_of(make_setup()) == ("unfinished", None)


@pytest.mark.parametrize("status", ["interrupted", "running"])
@pytest.mark.parametrize(("there", "kind"), [(True, "unfinished"), (False, "new")])
def test_an_interrupted_run_is_unfinished_only_if_it_has_a_checkpoint(
    make_setup: MakeSetup, leave: Leave, status: str, there: bool, kind: str
) -> None:
    record = leave(make_setup(), status)
    if there:
        leave_checkpoint(make_setup())
    assert status_of(make_setup()) == (kind, record)


@pytest.mark.parametrize(("status", "kind"), [("failed", "failed"), ("completed", "completed")])
@pytest.mark.parametrize("there", [True, False])
def test_leftover_checkpoints_do_not_change_a_final_status(
    make_setup: MakeSetup, leave: Leave, status: str, kind: str, there: bool
) -> None:
    record = leave(make_setup(), status)
    if there:
        leave_checkpoint(make_setup())
    assert status_of(make_setup()) == (kind, record)


def test_a_completed_run_without_its_requested_model_is_new(make_setup: MakeSetup, leave: Leave) -> None:
    record = leave(make_setup(), "completed")
    resolved = make_setup("save_model=true")
    assert resolved.id == record.id
    assert status_of(resolved) == ("new", record)
    assert status_of(make_setup()) == ("completed", record)
    resolved.saved_model.mkdir(parents=True)
    assert status_of(resolved) == ("completed", record)


def test_a_completed_run_without_its_requested_spectrum_is_new(make_setup: MakeSetup, leave: Leave) -> None:
    record = leave(make_setup(), "completed")
    resolved = make_setup("record_spectrum=true")
    assert resolved.id == record.id
    assert status_of(resolved) == ("new", record)
    assert status_of(make_setup()) == ("completed", record)
    has_it = replace(
        record,
        spectrum=Spectrum(ranks=[1], weights={"a": WeightSpectrum(rank=0, norm=0, norm_before=1, sum=0, sums=[0])}),
    )
    save_record(has_it, resolved.results_dir)
    assert status_of(resolved) == status_of(make_setup()) == ("completed", has_it)


def test_a_damaged_record_is_reported(make_setup: MakeSetup, leave: Leave) -> None:
    resolved = make_setup()
    leave(resolved, "completed")
    [path] = runs_folder(resolved.results_dir).rglob("*.json")
    path.write_text("{")
    with pytest.raises(UserError, match="not a run's record"):
        status_of(resolved)
