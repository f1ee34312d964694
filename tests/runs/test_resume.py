import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from rosa_bench.config.schema import RunConfig
from rosa_bench.methods.base import RunLength
from rosa_bench.records.record import RunRecord, to_values
from rosa_bench.records.store import load_records
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import run
from rosa_bench.system.errors import PreemptedError, UserError
from rosa_bench.system.signals.stopping import stop_signals_deferred
from rosa_bench.training.checkpoint import Checkpoints

TINY = (
    "task=grammar", "model=tiny_roberta", "device=cpu", "limit_train=120", "limit_eval=40", "batch_size=8", "epochs=3",
    "max_length=32", "lr=3e-3", "checkpoint_s=0", "save_model=true",
)  # fmt: skip
ROSA = ("method=rosa", "method.resample_every=3", "method.resample_unit=steps")
STEPS = 14  # per epoch under protocol=fair
KILLS = 3
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


# Killed with SIGKILL


KillAndResume = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def kill_and_resume(warm_python: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillAndResume]:
    """``kill_and_resume("places", folder, "method=lora")``: what kill_and_resume.py answers. It is started once."""
    script, said = Path(__file__).parent / "kill_and_resume.py", tmp_path_factory.mktemp("said") / "stderr"
    piped = subprocess.PIPE
    with said.open("w") as stderr, subprocess.Popen(
        [*warm_python, script], env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=script.parents[1], text=True,
        stdin=piped, stdout=piped, stderr=stderr,
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout
        asked, answers = process.stdin, process.stdout

        def ask(*arguments: str | Path | int) -> dict[str, Any]:
            print(json.dumps([str(argument) for argument in arguments]), file=asked, flush=True)
            answer = answers.readline()
            assert answer, said.read_text()
            return json.loads(answer)

        yield ask


# 27 kills altogether; 21 of them in the longest tier. The matrix resumes every method without a kill.
LONGER = pytest.mark.long


@pytest.mark.slow
@pytest.mark.parametrize("how", [
    (*ROSA, "protocol=fair"),
    ("method=blockwise", "method.blocks=1", "method.every=3", "method.order=shuffled", "protocol=fair"),
    pytest.param(("method=ft",), marks=LONGER),
    pytest.param(("method=prompt_tuning", "protocol=fair"), marks=LONGER),
    pytest.param((*ROSA, "method.stagger=true", "method.init=balanced", "protocol=paper"), marks=LONGER),
    pytest.param((*ROSA, "protocol=paper"), marks=LONGER),
    pytest.param((*ROSA, "method.svd_of=previous", "protocol=fair"), marks=LONGER),
    pytest.param(("method=lora", "protocol=fair"), marks=LONGER),
    pytest.param(("method=lora_plus", "protocol=fair"), marks=LONGER),
    pytest.param(("method=lora", "method.resample_every=3", "method.resample_unit=steps", "method.rewarm_steps=2",
                  "protocol=fair"), marks=LONGER),
], ids=" ".join)  # fmt: skip
def test_a_run_killed_at_random_moments_ends_like_an_uninterrupted_one(
    kill_and_resume: KillAndResume, tmp_path: Path, how: tuple[str, ...]
) -> None:
    found = kill_and_resume("random", tmp_path, KILLS, 0, *TINY, *how)
    assert len(found["steps"]) >= KILLS
    assert max(found["steps"]) >= KILLS  # so some kills came during training
    for killed in found["killed"]:
        assert killed == found["alone"]
    assert found["alone"]["left"] == ["model"]  # and no checkpoints
    assert found["alone"]["locks"] == []
    assert len(found["alone"]["scores"]["epochs"]) == 3


@pytest.mark.slow
def test_a_run_killed_at_critical_places_ends_like_an_uninterrupted_one(
    kill_and_resume: KillAndResume, tmp_path: Path
) -> None:
    found = kill_and_resume("places", tmp_path, *TINY, *ROSA, "protocol=fair")
    alone, killed, statuses = found["alone"], found["killed"], found["statuses"]
    assert statuses.pop("before the first step") == "new"
    assert statuses.pop("record saved") == "completed"
    assert set(statuses.values()) == {"unfinished"}
    assert len(statuses) == 20
    assert killed.pop("left") == ["checkpoints", "model"]  # the command line removes them at its next start
    assert alone.pop("left") == ["model"]
    assert killed == alone
    # The comparison can fail: if any part of the saved state is missing, the run ends differently.
    for part, without in found["lacking"].items():
        assert without["scores"] != alone["scores"], part
        assert (without["weights"], without["last weights"]) != (alone["weights"], alone["last weights"]) or (
            part == "losses"  # which are only reported
        )
    assert len(found["lacking"]) == 7


# What a language task, forgetting, predictions and an early stop add to the state.
@pytest.mark.slow
@pytest.mark.parametrize(("how", "kept", "epochs"), [
    (("task=new_language", "model=tiny_llama", "task.train_tokens=1200", "task.validation_tokens=300", "max_length=12",
      "method.basis=gradient", "method.train=a", "method.moments=rotate", "accumulate=2", "forgetting_on=restaurants",
      "protocol=fair"), {"forgetting"}, 3),
    pytest.param(
        ("task=phonebook", "model=tiny_llama", "task.pairs=30", "task.passes=3", "max_length=40", "method.stagger=true",
         "method.rewarm_steps=2", "forgetting_on=restaurants", "protocol=paper"), {"forgetting"}, 3, marks=LONGER),
    (("lr=1e-6", "stop_collapsed=true", "method.stagger=true", "protocol=paper"), {"stopped", "predictions"}, 2),
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")  # fmt: skip
def test_what_else_a_run_stores_survives_a_kill(
    kill_and_resume: KillAndResume, tmp_path: Path, how: tuple[str, ...], kept: set[str], epochs: int
) -> None:
    small = ("limit_train=null", "limit_eval=null") if "task=phonebook" in how else ()
    found = kill_and_resume("random", tmp_path, 3, 0, *TINY, *ROSA, *small, *how)
    alone = found["alone"]
    assert {name for name in ("forgetting", "stopped", "predictions") if alone[name]} == kept
    assert alone["resamples"] > epochs
    assert len(alone["scores"]["epochs"]) == epochs
    assert max(found["steps"]) >= 3
    for killed in found["killed"]:
        assert killed == alone


# Stopped in this process


@pytest.fixture
def make_setup(compose: Callable[..., RunConfig], tmp_path: Path) -> Callable[..., ResolvedRun]:
    """``make_setup("place", "method=lora")``: a run in that folder, by default ROSA under protocol=fair."""

    def make(place: str, *overrides: str) -> ResolvedRun:
        where = (f"results_dir='{tmp_path / place / 'results'}'", f"output_dir='{tmp_path / place / 'outputs'}'")
        return resolve(compose(*TINY, *ROSA, "protocol=fair", *overrides, *where), {})

    return make


def interrupt() -> None:
    raise KeyboardInterrupt


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def saved(resolved: ResolvedRun) -> list[str]:
    return sorted(path.name for path in resolved.checkpoints.iterdir())


def outcome(resolved: ResolvedRun, record: RunRecord) -> tuple[dict[str, Any], bytes]:
    scores = to_values(record)["scores"]
    scores["epochs"] = [{**epoch, "time_s": 0} for epoch in scores["epochs"]]
    return scores, (resolved.saved_model / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def alone(compose: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], bytes]:
    """The outcome of the same run without interruption. Made once, for several tests."""
    folder = tmp_path_factory.mktemp("alone")
    where = (f"results_dir='{folder / 'results'}'", f"output_dir='{folder / 'outputs'}'")
    resolved = resolve(compose(*TINY, *ROSA, "protocol=fair", "checkpoint_s=1e6", *where), {})
    return outcome(resolved, run(resolved))


def test_sigterm_saves_at_once_and_the_run_continues_from_that_step(
    make_setup: Callable[..., ResolvedRun], alone: tuple[dict[str, Any], bytes], at_step: Any
) -> None:
    resolved = make_setup("stopped", "checkpoint_s=1e6")  # no checkpoint is due
    with pytest.raises(PreemptedError, match="SIGTERM after step 20; the same command continues"):
        run(resolved, [at_step(19, terminate)])
    assert saved(resolved) == ["step-000000020-epochs-000001"]
    [record] = load_records(resolved.results_dir)
    assert record.status == "interrupted"
    assert record.error and "after step 20" in record.error
    assert len(record.scores.epochs) == 1
    made = at_step(-1, interrupt)
    assert outcome(resolved, run(resolved, [made])) == alone
    assert made.steps == list(range(20, 3 * STEPS))
    assert not resolved.checkpoints.exists()
    [record] = load_records(resolved.results_dir)
    assert record.status == "completed"


@pytest.mark.slow
@pytest.mark.parametrize("how", [
    pytest.param(("method=lora", "method.rewarm_steps=2", "method.last_resample=0.8"), marks=LONGER),
    pytest.param(("method=lora_plus", "method.init=normal"), marks=LONGER),
    ("method.init=balanced", "method.stagger=true", "method.rewarm_steps=1"),
    ("method.train=a", "method.basis=random", "method.init=zero", "method.moments=rotate"),
    pytest.param(("method.train=a", "method.basis=random", "method.stagger=true"), marks=LONGER),
    ("method.basis=gradient", "accumulate=2"),
    ("method.svd_of=previous",),
    pytest.param(("method.svd_of=initial", "method.train=a", "method.moments=rotate"), marks=LONGER),
    pytest.param(("method.basis=gradient", "method.train=a", "method.moments=rotate"), marks=LONGER),
    ("base_dtype=bfloat16", "precision=bfloat16"),
    *(pytest.param((f"base_dtype={kind}",), marks=needs_bitsandbytes) for kind in ("int8", "nf4")),
], ids=" ".join)  # fmt: skip
def test_a_run_with_draws_resumes_bit_for_bit(
    make_setup: Callable[..., ResolvedRun], at_step: Any, how: tuple[str, ...]
) -> None:
    straight = make_setup("straight", "checkpoint_s=1e6", *how)
    record = run(straight)
    expected = outcome(straight, record)
    resolved = make_setup("stopped", *how)
    for stop in (10, 20):  # before step 21 a draw is due
        with pytest.raises(KeyboardInterrupt):
            run(resolved, [at_step(stop, interrupt)])
    found = run(resolved)
    assert outcome(resolved, found) == expected
    assert found.resamples == record.resamples
    length = RunLength(STEPS, 3)
    drawn = sum(len(resolved.config.method.draws(step, length)) for step in range(length.total_steps))  # pyrefly: ignore[missing-attribute]
    assert found.resamples == drawn > 10


@pytest.mark.slow
def test_time_before_an_interruption_is_counted(make_setup: Callable[..., ResolvedRun], at_step: Any) -> None:
    resolved = make_setup("stopped", "method.resample_every=1", "method.resample_unit=epochs")  # makes one phase long
    with pytest.raises(KeyboardInterrupt):
        run(resolved, [at_step(10, lambda: time.sleep(2)), at_step(12, interrupt)])
    [record] = load_records(resolved.results_dir)
    before = record.time_s
    after = run(resolved)
    assert after.time_s["train"] > 2
    assert after.time_s["load"] > before["load"]
    assert after.time_s["total"] == pytest.approx(sum(s for name, s in after.time_s.items() if name != "total"))
    ends = [epoch.time_s or 0 for epoch in after.scores.epochs]
    assert ends[0] > 2
    assert ends == sorted(ends)


def test_resume_never_starts_again_and_removes_old_checkpoints(
    make_setup: Callable[..., ResolvedRun], alone: tuple[dict[str, Any], bytes], at_step: Any
) -> None:
    resolved = make_setup("again")
    with pytest.raises(KeyboardInterrupt):
        run(resolved, [at_step(25, interrupt)])
    assert saved(resolved) == ["step-000000025-epochs-000001"]
    made = at_step(-1, interrupt)
    assert outcome(resolved, run(make_setup("again", "resume=never", "checkpoint_s=1e6"), [made])) == alone
    assert made.steps == list(range(3 * STEPS))
    assert not resolved.checkpoints.exists()


def test_a_damaged_checkpoint_does_not_change_the_scores(
    make_setup: Callable[..., ResolvedRun], alone: tuple[dict[str, Any], bytes], at_step: Any
) -> None:
    resolved = make_setup("damaged")
    with pytest.raises(KeyboardInterrupt):
        run(resolved, [at_step(25, interrupt)])
    [tensors] = resolved.checkpoints.glob("*/*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-1])
    made = at_step(-1, interrupt)
    assert outcome(resolved, run(resolved, [made])) == alone
    assert made.steps[0] == 0


def test_asking_for_a_model_after_an_interruption_is_an_error(
    make_setup: Callable[..., ResolvedRun], at_step: Any
) -> None:
    # If dev selects the epoch, the best weights are kept only if they will be saved.
    late = ("protocol=paper",)
    with pytest.raises(KeyboardInterrupt):
        run(make_setup("late", *late, "save_model=false"), [at_step(20, interrupt)])
    with pytest.raises(UserError, match=r"without save_model, save_adapter.*resume=never"):
        run(make_setup("late", *late))
    assert run(make_setup("late", *late, "save_model=false")).status == "completed"


def test_a_checkpoint_of_another_run_is_rejected_without_a_record(
    make_setup: Callable[..., ResolvedRun], at_step: Any
) -> None:
    resolved, other = make_setup("one"), make_setup("one", "lr=1e-3")
    with pytest.raises(KeyboardInterrupt):
        run(resolved, [at_step(3, interrupt)])
    other.checkpoints.parent.mkdir(parents=True)
    resolved.checkpoints.rename(other.checkpoints)
    with pytest.raises(UserError, match=r"another run \(lr: 0\.003, here 0\.001\).*resume=never"):
        run(other)
    assert [record.id for record in load_records(other.results_dir)] == [resolved.id]


def test_checkpoints_are_written_only_when_due(
    make_setup: Callable[..., ResolvedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[int, int]] = []
    real = Checkpoints.save

    def save(self: Checkpoints, step: int, epochs: int, snapshot: Any) -> None:
        written.append((step, epochs))
        real(self, step, epochs, snapshot)

    monkeypatch.setattr(Checkpoints, "save", save)
    run(make_setup("seldom", "checkpoint_s=1e6", "save_model=false"))
    assert written == []
    run(make_setup("often", "save_model=false"))
    steps = [(step, (step - 1) // STEPS) for step in range(1, 3 * STEPS + 1)]
    assert written == sorted([*steps, (STEPS, 1), (2 * STEPS, 2), (3 * STEPS, 3)])


# SIGTERM


def test_sigterm_is_deferred_inside_the_block_and_its_handler_is_restored() -> None:
    def before(_number: int, _frame: object) -> None: ...

    earlier = signal.signal(signal.SIGTERM, before)
    try:
        with stop_signals_deferred() as asked:
            assert asked.number is None
            terminate()
            assert asked.number == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is before
        with pytest.raises(KeyError), stop_signals_deferred():
            raise KeyError
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_other_threads_do_not_change_signal_handlers() -> None:
    found = []

    def work() -> None:
        with stop_signals_deferred() as asked:
            found.append((asked.number is not None, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, signal.SIG_DFL)]


@pytest.mark.slow
def test_sigterm_exits_with_143_and_the_same_command_completes_the_run(
    make_setup: Callable[..., ResolvedRun], alone: tuple[dict[str, Any], bytes], warm_python: list[str], tmp_path: Path
) -> None:
    resolved = make_setup("program")
    command = [
        *warm_python, "-m", "rosa_bench.cli.main", *TINY, *ROSA, "protocol=fair",
        f"results_dir={resolved.results_dir}", f"output_dir={resolved.output_dir.parent}",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    piped = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=piped, stderr=piped, text=True) as process:
        while process.poll() is None and not any(resolved.checkpoints.glob("step-*")):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert process.returncode == 143, out + err
    assert err.startswith("rosa-bench: stopped by SIGTERM after step ")
    assert err.count("\n") == 1
    [record] = load_records(resolved.results_dir)
    assert record.status == "interrupted"
    assert record.error and f"rosa-bench: {record.error}\n" == err
    [name] = saved(resolved)
    assert f"after step {int(name.split('-')[1])};" in record.error
    assert not list(resolved.lock.parent.iterdir())

    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"continuing from step {int(name.split('-')[1])}" in done.stdout
    [record] = load_records(resolved.results_dir)
    assert record.status == "completed"
    assert outcome(resolved, record) == alone
    assert not resolved.checkpoints.exists()


def test_the_step_from_which_a_run_continues_is_logged(
    make_setup: Callable[..., ResolvedRun], at_step: Any, caplog: pytest.LogCaptureFixture
) -> None:
    resolved = make_setup("logged", "save_model=false")
    with pytest.raises(KeyboardInterrupt):
        run(resolved, [at_step(4, interrupt)])
    with caplog.at_level(logging.INFO, logger="rosa_bench"):
        run(resolved)
    assert "continuing from step 4" in caplog.messages


def test_a_checkpoint_holds_only_tensors_that_change(make_setup: Callable[..., ResolvedRun], at_step: Any) -> None:
    resolved = make_setup("sizes", "protocol=paper")
    with pytest.raises(KeyboardInterrupt):
        run(resolved, [at_step(4, interrupt)])
    [path] = resolved.checkpoints.glob("*/*.safetensors")
    names = {name for name in load_file(path) if name.startswith("training.model.")}
    assert any(name.endswith(".residual") for name in names)
    assert not any("embeddings.word" in name for name in names)  # frozen, and loaded from the model's own files
