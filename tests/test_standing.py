from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rosa_bench.config import RunConfig
from rosa_bench.errors import UserError
from rosa_bench.record import RunRecord, runs_folder, save_record
from rosa_bench.setup import Setup, set_up
from rosa_bench.standing import standing

MakeSetup = Callable[..., Setup]
Leave = Callable[[Setup, str], RunRecord]


@pytest.fixture
def make_setup(compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSetup:
    """``make_setup("lr=1")``: such a run in an empty folder, not begun."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: set_up(compose("task=grammar", "model=tiny_bert", "device=cpu", *overrides), {})


@pytest.fixture
def leave(make_record: Callable[..., RunRecord]) -> Callable[[Setup, str], RunRecord]:
    """``leave(setup, "failed")``: a record left behind, as that run would leave it."""

    def make(setup: Setup, status: str) -> RunRecord:
        record = make_record("task=grammar", id=setup.id, status=status)
        save_record(record, setup.results_dir)
        return record

    return make


def leave_checkpoint(setup: Setup, name: str = "step-000000003-epochs-000000") -> None:
    (setup.checkpoints / name).mkdir(parents=True)


def test_without_anything_a_run_is_new(make_setup: MakeSetup, leave: Leave) -> None:
    setup = make_setup()
    leave(make_setup("seed=1"), "completed")  # another one
    assert standing(setup) == ("new", None)


def test_a_folder_that_was_never_finished_is_no_checkpoint(make_setup: MakeSetup) -> None:
    leave_checkpoint(make_setup(), ".step-000000003-epochs-000000.a1b2")
    assert standing(make_setup()) == ("new", None)


def test_a_checkpoint_alone_is_of_an_unfinished_run(make_setup: MakeSetup) -> None:
    leave_checkpoint(make_setup())
    assert standing(make_setup()) == ("unfinished", None)


@pytest.mark.parametrize("status", ["interrupted", "running"])
@pytest.mark.parametrize(("there", "kind"), [(True, "unfinished"), (False, "new")])
def test_one_that_broke_off_goes_on_where_it_can(
    make_setup: MakeSetup, leave: Leave, status: str, there: bool, kind: str
) -> None:
    record = leave(make_setup(), status)
    if there:
        leave_checkpoint(make_setup())
    assert standing(make_setup()) == (kind, record)


@pytest.mark.parametrize(("status", "kind"), [("failed", "failed"), ("completed", "completed")])
@pytest.mark.parametrize("there", [True, False])
def test_what_came_to_an_end_did_so_whatever_is_left(
    make_setup: MakeSetup, leave: Leave, status: str, kind: str, there: bool
) -> None:
    record = leave(make_setup(), status)
    if there:
        leave_checkpoint(make_setup())
    assert standing(make_setup()) == (kind, record)


def test_completed_without_the_model_that_is_wanted_it_is_new(make_setup: MakeSetup, leave: Leave) -> None:
    record = leave(make_setup(), "completed")
    wanted = make_setup("save_model=true")
    assert wanted.id == record.id
    assert standing(wanted) == ("new", record)
    assert standing(make_setup()) == ("completed", record)
    wanted.saved_model.mkdir(parents=True)
    assert standing(wanted) == ("completed", record)


def test_completed_without_the_spectrum_that_is_wanted_it_is_new(make_setup: MakeSetup, leave: Leave) -> None:
    record = leave(make_setup(), "completed")
    wanted = make_setup("record_spectrum=true")
    assert wanted.id == record.id
    assert standing(wanted) == ("new", record)
    assert standing(make_setup()) == ("completed", record)
    has_it = replace(record, spectrum={"ranks": [1], "weights": {}})
    save_record(has_it, wanted.results_dir)
    assert standing(wanted) == standing(make_setup()) == ("completed", has_it)


def test_a_damaged_record_is_told(make_setup: MakeSetup, leave: Leave) -> None:
    setup = make_setup()
    leave(setup, "completed")
    [path] = runs_folder(setup.results_dir).glob("*.json")
    path.write_text("{")
    with pytest.raises(UserError, match="not a run's record"):
        standing(setup)
