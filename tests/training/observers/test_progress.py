import io
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from rich.console import Console

from rosa_bench.system.console import ConsoleHandler
from rosa_bench.training.observers import progress
from rosa_bench.training.observers.progress import LINES, REFRESH_S, CandidateProgress, TrainingProgress

Fields = Callable[[], dict]


class Clock:
    """A clock that advances only when set."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120)


@pytest.fixture
def bar(clock: Clock, terminal: Console) -> Iterator[TrainingProgress]:
    """Three epochs of ten steps of four examples."""
    bar = TrainingProgress(epochs=3, steps_per_epoch=10, batch_size=4, console=terminal)
    bar.start()
    yield bar
    bar.stop()


def shown(bar: TrainingProgress) -> dict:
    [task] = bar.bar.tasks
    return {"step": task.completed, "total": task.total, **task.fields}


def test_the_rate_counts_examples_since_the_last_update(bar: TrainingProgress, clock: Clock) -> None:
    clock.now += 2
    bar.show(10, loss=0.5, lr=1e-3)
    assert shown(bar) | {"epoch": None} == {
        "step": 10, "total": 30, "epoch": None, "epochs": 3,
        "measured": f"loss 0.5000  lr 1.00e-03  {10 * 4 / 2:.0f} examples/s",
    }  # fmt: skip
    clock.now += 1
    bar.show(15, loss=0.25, lr=2e-3)
    assert shown(bar)["measured"] == f"loss 0.2500  lr 2.00e-03  {5 * 4 / 1:.0f} examples/s"


def test_after_a_resume_the_rate_counts_new_steps_only(clock: Clock, terminal: Console) -> None:
    bar = TrainingProgress(epochs=3, steps_per_epoch=10, batch_size=4, console=terminal)
    bar.start(20)
    clock.now += 2
    bar.show(25, loss=0.5, lr=1e-3)
    bar.stop()
    assert shown(bar)["measured"].endswith(f"  {5 * 4 / 2:.0f} examples/s")


def test_evaluation_does_not_slow_the_rate(bar: TrainingProgress, clock: Clock) -> None:
    clock.now += 2
    bar.show(8, loss=0.5, lr=1e-3)
    clock.now += 1000  # the rest of the epoch, and its evaluation
    bar.end_epoch(0, loss=0.5, scores={}, seconds=1002)
    clock.now += 1
    bar.show(15, loss=0.5, lr=1e-3)
    assert shown(bar)["measured"].endswith(f"  {(15 - 10) * 4 / 1:.0f} examples/s")


@pytest.mark.parametrize(("step", "epoch"), [(1, 1), (9, 1), (11, 2), (19, 2), (21, 3), (30, 3)])
def test_the_epoch_shown_belongs_to_the_step(bar: TrainingProgress, clock: Clock, step: int, epoch: int) -> None:
    clock.now += 1
    bar.show(step, loss=0.5, lr=1e-3)
    assert shown(bar)["epoch"] == epoch


def test_values_are_read_a_few_times_a_second(bar: TrainingProgress, clock: Clock) -> None:
    assert not bar.due()
    clock.now += REFRESH_S / 2
    assert not bar.due()
    clock.now += REFRESH_S
    assert bar.due()
    bar.show(3, loss=0.5, lr=1e-3)
    assert not bar.due()


def test_a_terminal_shows_no_values_before_they_are_known(bar: TrainingProgress, terminal: Console) -> None:
    bar.bar.refresh()
    assert isinstance(terminal.file, io.StringIO)
    text = terminal.file.getvalue()
    assert "step 0/30" in text
    assert not any(word in text for word in ("loss", "nan", "lr", "examples/s"))


def test_a_terminal_shows_every_value(bar: TrainingProgress, clock: Clock, terminal: Console) -> None:
    clock.now += 2
    bar.show(13, loss=0.123456, lr=2e-3)
    bar.bar.refresh()
    assert isinstance(terminal.file, io.StringIO)
    text = terminal.file.getvalue()
    for part in ("epoch 2/3", "step 13/30", "loss 0.1235", "lr 2.00e-03", "26 examples/s"):
        assert part in text


def test_there_is_no_bar_without_a_terminal(clock: Clock) -> None:
    file = Console(file=io.StringIO(), force_terminal=False, width=120)
    bar = TrainingProgress(epochs=1, steps_per_epoch=2, batch_size=1, console=file)
    bar.start()
    clock.now += 2
    bar.show(1, loss=0.5, lr=1e-3)
    bar.bar.refresh()
    bar.stop()
    assert isinstance(file.file, io.StringIO)
    assert file.file.getvalue() == ""


def test_each_epoch_logs_one_line(bar: TrainingProgress, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="rosa_bench"):
        for epoch in range(3):
            bar.end_epoch(epoch, loss=0.5, scores={"accuracy": 0.75, "loss": 0.25}, seconds=1.26)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        f"epoch {number}/3  train loss 0.5000  accuracy 75.00  loss 0.2500  (1.3 s)" for number in (1, 2, 3)
    ]


def test_the_first_line_with_a_spread_explains_it(bar: TrainingProgress, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="rosa_bench"):
        for epoch in range(2):
            bar.end_epoch(epoch, loss=0.5, scores={"pearson": 0.5, "spread": 0.25}, seconds=1.0)
    first, explanation, second = [record.getMessage() for record in caplog.records]
    assert "pearson 50.00  spread 0.2500" in first and "spread" in second
    assert explanation == "  spread: of the predictions, relative to the labels'; 0 if all rows get the same answer"


@pytest.mark.parametrize("epochs", [1, 2, 24, 25, 26, 30, 31, 49, 50, 51, 74, 499, 500, 501, 10_000])
def test_a_long_run_logs_few_epochs_and_always_the_last(
    epochs: int, clock: Clock, terminal: Console, caplog: pytest.LogCaptureFixture
) -> None:
    bar = TrainingProgress(epochs=epochs, steps_per_epoch=2, batch_size=1, console=terminal)
    with caplog.at_level(logging.INFO, logger="rosa_bench"):
        for epoch in range(epochs):
            bar.end_epoch(epoch, loss=0.5, scores={"loss": 0.25}, seconds=epoch)
    logged = [int(record.getMessage().removeprefix("epoch ").partition("/")[0]) for record in caplog.records]
    assert logged[-1] == epochs
    assert logged == sorted(set(logged))
    assert len(logged) <= LINES == 25
    assert len(logged) == epochs if epochs <= LINES else len(logged) > LINES / 2


def test_a_line_leaves_out_scores_of_parts(bar: TrainingProgress, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="rosa_bench"):
        bar.end_epoch(2, loss=0.5, scores={"mse": 0.375, "loss": 0.75, "mse.0": 0.25, "mse.1": 0.5}, seconds=1.26)
    assert [record.getMessage() for record in caplog.records] == [
        "epoch 3/3  train loss 0.5000  mse 0.3750  loss 0.7500  (1.3 s)"
    ]


def test_a_log_line_is_printed_verbatim(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), width=20)
    monkeypatch.setattr("rosa_bench.system.console.get_console", lambda: screen)
    line = "[bold]no mark-up[/bold], and longer than the screen is wide: :smile:"
    ConsoleHandler().emit(logging.makeLogRecord({"msg": line}))
    assert isinstance(screen.file, io.StringIO)
    assert screen.file.getvalue() == f"{line}\n"


def test_candidates_are_counted_and_named(terminal: Console, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    names = [f"layer {number}" for number in range(2 * LINES)]
    bar = CandidateProgress(names, console=terminal)
    done: list = [None] * 4  # before an interruption
    bar.on_train_start(SimpleNamespace(history=done))  # pyrefly: ignore[bad-argument-type]
    assert bar.bar.tasks[0].completed == 4
    for number in range(4, len(names)):
        epoch = SimpleNamespace(scores={"accuracy": number / 100, "hidden.part": 1.0}, time_s=2.0)
        bar.on_epoch_end(SimpleNamespace(), number, epoch)  # pyrefly: ignore[bad-argument-type]
    bar.on_train_end(SimpleNamespace())  # pyrefly: ignore[bad-argument-type]
    assert (bar.bar.tasks[0].completed, bar.bar.tasks[0].total) == (50, 50)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "candidate 6/50  layer 5  accuracy 5.00  (2.0 s)"
    assert lines[-1].startswith("candidate 50/50  layer 49")
    assert len(lines) == LINES - 2
