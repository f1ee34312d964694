import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig

from rosa_bench.cli.commands import run as running
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_records
from rosa_bench.runs.lock import locked
from rosa_bench.system.errors import UserError

TINY = ("task=grammar", "model=tiny_bert", "epochs=1", "limit_train=32", "limit_eval=32", "device=cpu")
LR = ("batch_size=8", "lr=1e-3")  # four steps, so that something is learned


def records(folder: Path) -> list[RunRecord]:
    return load_records(folder / "results")


def test_a_run_leaves_one_record_and_is_not_run_again(
    rosa_bench: Callable[..., Any], process: Callable[..., Any], warm_python: list[str], here: Path
) -> None:
    arguments = (*TINY, *LR, "method=rosa", "results_dir=res", "output_dir=out")
    first = process(*arguments, python=warm_python)  # the real thing, once; test_imports.py starts a run without it
    assert (first.status, first.err) == (0, "")
    [path] = here.rglob("*.json")
    assert path.parent == here / "res/runs/grammar/tiny_bert"
    assert path.name in first.out
    assert first.out.splitlines()[-1] == f"next: rosa-bench show {path.stem} results_dir=res"
    before = path.read_bytes()
    assert json.loads(before)["status"] == "completed"

    again = rosa_bench(*arguments)
    assert again.status == 0
    assert "completed already" in again.out
    assert "resume=never" in again.out
    assert list(here.rglob("*.json")) == [path]
    assert path.read_bytes() == before

    anew = rosa_bench(*arguments, "resume=never")
    assert anew.status == 0
    [aside] = (here / "res/runs/superseded").iterdir()
    assert aside.read_bytes() == before
    after = json.loads(path.read_bytes())
    assert after["status"] == "completed"
    assert after["scores"]["selected"] == pytest.approx(json.loads(before)["scores"]["selected"], rel=1e-4)


def test_a_sweep_leaves_a_record_for_each_combination(
    rosa_bench: Callable[..., Any], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed, compose = [], ConfigLoaderImpl.load_sweep_config

    def counted(*arguments: Any, **options: Any) -> DictConfig:
        composed.append(options)
        return compose(*arguments, **options)

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", counted)
    outcome = rosa_bench(*TINY, "method=ft,ia3", "seed=0,1", "-m")
    assert len(composed) == 4  # each job once
    assert outcome.status == 0
    assert outcome.out.endswith("\n4 runs, all completed\nnext: rosa-bench ls\n      rosa-bench tables\n")
    assert {"ft", "ia3"} <= {line.partition(" ")[0] for line in outcome.out.splitlines()}
    made = {(record.config["method"]["name"], record.config["seed"]) for record in records(here)}
    assert made == {("ft", 0), ("ft", 1), ("ia3", 0), ("ia3", 1)}
    assert len(list(here.rglob("*.json"))) == 4


def test_runs_in_one_pass_are_recorded_as_each_alone(rosa_bench: Callable[..., Any], here: Path) -> None:
    (here / "mine.csv").write_text("text,label\n" + "".join(f"word {n},{'ab'[n % 2]}\n" for n in range(40)))
    sweep = ["-m", "task=classify", "data=mine.csv", "model=tiny_bert", "method=head_only", "epochs=1", "batch_size=8",
             "lr=1e-3,2e-3", "device=cpu"]  # fmt: skip
    for more in (["packed=2"], ["results_dir=alone"]):
        assert rosa_bench(*sweep, *more).status == 0
    packed, alone = records(here), load_records(here / "alone")
    assert [run.packed for run in packed] == [2, 2]
    for one, other in zip(packed, alone, strict=True):
        assert (one.id, one.config, one.deviations, one.data) == (other.id, other.config, other.deviations, other.data)


def test_a_preset_is_a_sweep_without_the_flag(
    rosa_bench: Callable[..., Any], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert here.is_dir()
    swept: list[list[str]] = []
    monkeypatch.setattr(running, "sweep", swept.append)
    for arguments in (["+experiment=smoke"], ["run", "+experiment=smoke"], ["-m", "run", "+experiment=smoke"]):
        assert rosa_bench(*arguments, "rank=2").status == 0
        assert swept.pop() == ["+experiment=smoke", "rank=2"]
    assert rosa_bench("+experiment=capacity", "lr=4e-3").status == 0
    assert swept.pop() == ["+experiment=capacity", "lr=4e-3", "lr_half_decades=0"]
    assert "method:" in rosa_bench("+experiment=smoke", "--cfg", "job").out
    assert swept == []
    rosa_bench("+experiment=smoek").assert_one_line_error("did you mean smoke?")


@pytest.mark.slow
def test_the_smoke_preset_shows_where_lora_ends_and_rosa_does_not(rosa_bench: Callable[..., Any], here: Path) -> None:
    outcome = rosa_bench("+experiment=smoke", "epochs=16")
    assert (outcome.status, outcome.err) == (0, "")
    lines = [line.split() for line in outcome.out.splitlines()]
    full, lora, rosa = (next(line for line in lines if line[:1] == [name]) for name in ("ft", "lora", "rosa"))
    assert float(full[1]) < 1e-3
    assert float(lora[2]) > float(lora[3])  # its error, and the bound of its rank
    assert float(rosa[3]) < float(rosa[4]) == float(lora[3])
    for command in ("tables", "figures", "report", "compare method=rosa,lora", "ls", "show"):
        done = rosa_bench(*command.split(), "results_dir=outputs/smoke")
        assert done.status == 0, done.err
    results = here / "outputs/smoke"
    assert {path.name for path in (results / "figures").iterdir()} == {"figure2.md", "figure2.svg"}
    assert "LoRA (r=4)" in (results / "tables/regression.md").read_text()
    assert "3 runs: 3 completed" in (results / "report.html").read_text()
    rosa_bench("next", "results_dir=outputs/smoke").assert_one_line_error("holds no runs", "are regressions")


def test_a_failing_job_does_not_stop_a_sweep_and_each_is_reported(rosa_bench: Callable[..., Any], here: Path) -> None:
    outcome = rosa_bench("-m", *TINY, "method=ft", "batch_size=4", "lr=1e30,2e30,1e-3")
    assert outcome.status == 1
    status = {record.config["lr"]: record.status for record in records(here)}
    assert status == {1e30: "failed", 2e30: "failed", 1e-3: "completed"}
    shown = [line for line in outcome.err.splitlines() if line.startswith("rosa-bench: ")]
    assert sum("training loss" in line for line in shown) == 2, outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(("arguments", "words"), [
    ([*TINY, "method=lora", "rank=2,33,34"], ["rank=33 does not fit", "rank=34 does not fit", "2 of 3 jobs"]),
    ([*TINY, "method=blockwise", "method.blocks=2,3"], ["method.blocks=3 is more than the model's 2", "1 of 2 jobs"]),
    (["task=synthetic", "model=mlp1", "method=rosa", "rank=1,33"], ["rank=33 does not fit", "1 of 2 jobs"]),
    (["task=restaurants", "model=tiny_gpt2", "method=rosa", "rank=1,65"], ["rank=65 does not fit", "1 of 2 jobs"]),
])  # fmt: skip
def test_a_method_that_does_not_fit_its_model_is_found_before_the_first_job_starts(
    rosa_bench: Callable[..., Any], here: Path, arguments: list[str], words: list[str]
) -> None:
    outcome = rosa_bench("-m", *arguments)
    assert outcome.status == 1
    assert [word for word in [*words, "none was started"] if word not in outcome.err] == []
    assert not list(here.rglob("*.json"))


def test_weights_that_cannot_be_fetched_end_a_sweep_before_its_first_job(
    rosa_bench: Callable[..., Any], here: Path
) -> None:
    """The tests' hub is offline."""
    words = "model=roberta_base cannot be fetched", "connect to the network"
    rosa_bench("-m", "task=grammar", "model=roberta_base", "method=lora,rosa").assert_one_line_error(*words)
    outcome = rosa_bench("-m", *TINY, "model=roberta_base,tiny_bert", "method=lora")
    assert [word for word in [*words, "1 of 2 jobs", "none was started"] if word not in outcome.err] == []
    assert not list(here.rglob("*.json"))


def test_a_damaged_record_stops_its_own_run_and_no_other(rosa_bench: Callable[..., Any], here: Path) -> None:
    assert rosa_bench(*TINY).status == 0
    [path] = here.rglob("*.json")
    path.write_text("{")
    rosa_bench(*TINY).assert_one_line_error(f"{path.relative_to(here)} is not a run's record", "move it away")
    outcome = rosa_bench("-m", *TINY, "seed=0,1")
    assert outcome.status == 1
    assert "not a run's record" in outcome.err
    assert "1 of 2 jobs cannot be run; none was started" in outcome.err
    assert rosa_bench(*TINY, "seed=1").status == 0
    assert path.read_text() == "{"
    shown = rosa_bench("tables")
    assert (shown.status, "1 completed run" in shown.out) == (0, True)
    assert "1 of 2 files in results/runs could not be read; see above" in shown.out + shown.err  # wherever the log goes


def test_a_loss_that_is_not_finite_fails_with_its_step(rosa_bench: Callable[..., Any], here: Path) -> None:
    outcome = rosa_bench(*TINY, "method=ft", "batch_size=4", "lr=1e30")
    outcome.assert_one_line_error("training loss", "step", "; a smaller lr= may help")
    [record] = records(here)
    assert record.status == "failed"
    assert record.error is not None
    reason = record.error.removeprefix("TrainingFailedError: ")
    assert outcome.err.startswith(f"rosa-bench: the training cannot go on: {reason};")
    rosa_bench("export", record.id).assert_one_line_error(f"failed ({record.error}), so it has left nothing to export")


def test_a_training_that_failed_begins_again_and_not_from_weights_that_are_nan(
    rosa_bench: Callable[..., Any], here: Path
) -> None:
    arguments = (*TINY, "method=ft", "batch_size=4", "lr=1e30", "checkpoint_s=0")
    assert "training loss" in rosa_bench(*arguments).err
    assert not list(here.rglob("step-*"))
    again = rosa_bench(*arguments, "retry_failed=true")
    assert "training loss" in again.err and "continuing" not in again.out


def test_what_failed_is_run_again_on_demand_only(rosa_bench: Callable[..., Any], here: Path) -> None:
    arguments = (*TINY, "method=ft", "batch_size=4", "lr=1e30")
    assert rosa_bench(*arguments).status == 1
    [path] = here.rglob("*.json")
    before = path.read_bytes()
    rosa_bench(*arguments).assert_one_line_error(
        "failed before (TrainingFailedError: the training loss", "retry_failed=true"
    )
    assert list(here.rglob("*.json")) == [path] and path.read_bytes() == before  # it was not run
    for again in ("retry_failed=true", "resume=never"):
        outcome = rosa_bench(*arguments, again)
        outcome.assert_one_line_error("the training cannot go on", "training loss")
        assert "failed before" not in outcome.err
    assert len(list((here / "results/runs/superseded").iterdir())) == 2


def test_a_checkpoint_that_cannot_be_written_is_a_warning(
    rosa_bench: Callable[..., Any], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoints")

    with monkeypatch.context() as patched:
        patched.setattr("rosa_bench.training.checkpoint.save_file", full)
        outcome = rosa_bench(*TINY, "checkpoint_s=0")
    assert outcome.status == 0
    assert outcome.out.count("no checkpoint was saved") == 1  # once, not after every step
    assert "checkpoints: No space left on device" in outcome.out
    assert [record.status for record in records(here)] == ["completed"]


@pytest.mark.parametrize("reason", [
    errno.ENOSPC, *(pytest.param(it, marks=pytest.mark.long) for it in (errno.EROFS, errno.EDQUOT, errno.EIO)),
    errno.ENOENT,
])  # fmt: skip
def test_a_disk_that_fails_interrupts_a_run_and_is_no_failure_of_its_method(
    rosa_bench: Callable[..., Any], here: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def failing(*_: object, **_options: object) -> None:
        raise OSError(reason, os.strerror(reason), "the/model")

    with monkeypatch.context() as patched:
        patched.setattr("rosa_bench.tasks.prepared.PreparedTask.save_model", failing)
        outcome = rosa_bench(*TINY, "save_model=true")
        outcome.assert_one_line_error(f"the/model: {os.strerror(reason)}", "the same command continues")
    [record] = records(here)
    assert (record.status, record.error) == ("interrupted", f"the/model: {os.strerror(reason)}")
    assert rosa_bench(*TINY, "save_model=true").status == 0
    assert [record.status for record in records(here)] == ["completed"]


def test_a_full_disk_when_the_record_is_written_is_reported_and_harms_nothing(
    rosa_bench: Callable[..., Any], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file")

    assert rosa_bench(*TINY, "seed=1").status == 0
    [other] = here.rglob("*.json")
    before = other.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("rosa_bench.records.store.write_atomic", full)
        rosa_bench(*TINY, "checkpoint_s=0").assert_one_line_error("No space left on device")
    assert list((here / "results/runs").rglob("*.json")) == [other]  # nothing half-written
    assert other.read_bytes() == before
    assert list(here.rglob("step-*"))  # what was trained is not lost
    again = rosa_bench(*TINY)
    assert again.status == 0
    assert "continuing from step" in again.out
    assert len(records(here)) == 2
    assert not list(here.rglob("step-*"))


@pytest.mark.parametrize("blocked", ["results/runs/grammar", "results/runs/.locks", "outputs"])
def test_a_place_that_cannot_be_written_is_found_before_training(
    rosa_bench: Callable[..., Any], here: Path, blocked: str
) -> None:
    (here / blocked).parent.mkdir(parents=True, exist_ok=True)
    (here / blocked).write_text("in the way")
    outcome = rosa_bench(*TINY)
    outcome.assert_one_line_error("cannot be written to", "choose another folder", blocked)
    assert "training" not in outcome.out


def test_a_run_of_another_process_is_reported_as_busy(rosa_bench: Callable[..., Any], here: Path) -> None:
    assert rosa_bench(*TINY).status == 0
    [path] = here.rglob("*.json")
    with locked(here / "results/runs/.locks" / path.stem, "it"):
        rosa_bench(*TINY).assert_one_line_error(path.stem, f"process {os.getpid()} on this machine")
        assert rosa_bench(*TINY, "seed=1").status == 0  # another run is free
    assert rosa_bench(*TINY).status == 0


def test_checkpoints_that_a_completed_run_could_not_remove_are_removed(
    rosa_bench: Callable[..., Any], here: Path
) -> None:
    assert rosa_bench(*TINY).status == 0
    [record] = records(here)
    (here / "outputs" / record.id / "checkpoints/step-000000004-epochs-000001").mkdir(parents=True)
    outcome = rosa_bench(*TINY)
    assert (outcome.status, "completed already" in outcome.out) == (0, True)
    assert not list(here.rglob("step-*"))


def test_a_completed_run_is_run_again_for_its_model_only(rosa_bench: Callable[..., Any], here: Path) -> None:
    assert rosa_bench(*TINY).status == 0
    assert not list(here.rglob("model.safetensors"))
    assert rosa_bench(*TINY, "save_model=true").status == 0
    [saved] = here.rglob("model.safetensors")
    written = saved.stat().st_mtime_ns
    assert rosa_bench(*TINY, "save_model=true").status == 0
    assert saved.stat().st_mtime_ns == written


def test_a_tilde_stands_for_the_home_folder(rosa_bench: Callable[..., Any]) -> None:
    for key in ("data_dir", "model.path"):
        outcome = rosa_bench(*TINY, "task=cola", f"{key}=~/nowhere-at-all")
        outcome.assert_one_line_error(
            f"{key}={Path.home()}/nowhere-at-all" if key == "model.path" else "nowhere-at-all"
        )


@pytest.mark.parametrize(("gpus", "jobs_per_gpu", "expected"), [(0, 1, -1), (0, 3, -1), (1, 1, 1), (2, 3, 6)])
def test_the_number_of_jobs_at_once_follows_the_gpus(
    monkeypatch: pytest.MonkeyPatch, gpus: int, jobs_per_gpu: int, expected: int
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert running.processes(jobs_per_gpu) == expected


@pytest.mark.parametrize(("gpus", "jobs_per_gpu", "expected"), [(0, 1, 0), (1, 1, 1), (8, 2, 0.5)])
def test_a_job_on_ray_takes_its_share_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, gpus: int, jobs_per_gpu: int, expected: float
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert running.gpu_share(jobs_per_gpu) == expected


@pytest.mark.parametrize("wrong", [0, -1])
def test_less_than_one_job_per_gpu_is_refused(wrong: int) -> None:
    with pytest.raises(UserError, match=f"jobs_per_gpu={wrong}"):
        running.processes(wrong)
