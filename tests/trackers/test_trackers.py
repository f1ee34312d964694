"""Test each tracker by reading back what it stored, with its own library. Trackers not installed are skipped."""

import json
import logging
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
import pytest

from rosa_bench.config.composing.parse import parse
from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.schema import RunConfig
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_record, load_records, runs_folder
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import run
from rosa_bench.system.errors import UserError
from rosa_bench.trackers import base, tensorboard
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Training, TrainingFailedError

NAMES = sorted(path.stem for path in (conf_folder() / "logger").glob("*.yaml"))
TINY = (
    "task=grammar", "model=tiny_bert", "method=lora", "device=cpu", "limit_train=40", "limit_eval=24", "batch_size=8",
    "epochs=3", "max_length=32", "lr=3e-3", "checkpoint_s=1e6",
)  # fmt: skip
STEPS = 5  # per epoch


@dataclass
class TrackedRun:
    """One run as stored by a tracker.

    key     the tracker's identifier of the run
    sent    all metrics in order: (step, name) and the value
    ending  final status in the tracker's own terms
    """

    key: str
    name: str
    settings: dict[str, Any]
    sent: list[tuple[tuple[int, str], float]] = field(default_factory=list)
    ending: Any = None


def tensorboard_runs(resolved: ResolvedRun) -> list[TrackedRun]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

    runs = []
    for folder in sorted(resolved.config.logger.path.iterdir()):
        if not folder.is_dir():
            continue
        events = EventAccumulator(str(folder), purge_orphaned_data=False).Reload()
        stored = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
        settings = {
            name: getattr(value, value.WhichOneof("kind"))
            for name, value in parse_session_start_info_plugin_data(stored).hparams.items()
        }
        tracked = TrackedRun(folder.name, folder.name, settings)
        for name in events.Tags()["scalars"]:  # pyrefly: ignore[not-iterable]
            tracked.sent += [((event.step, name), event.value) for event in events.Scalars(name)]
        if "status/text_summary" in events.Tags()["tensors"]:  # pyrefly: ignore[not-iterable]
            tracked.ending = events.Tensors("status/text_summary")[-1].tensor_proto.string_val[0].decode()
        assert [path for path in folder.iterdir() if path.is_dir()] == []  # a subfolder would appear as another run
        runs.append(tracked)
    return runs


def wandb_runs(resolved: ResolvedRun) -> list[TrackedRun]:
    """Read the files that ``wandb sync`` uploads: protobuf records in LevelDB's log format after a 7-byte header."""
    import struct

    import wandb  # pyrefly: ignore[missing-import]
    from wandb.proto.wandb_internal_pb2 import Record  # pyrefly: ignore[missing-import]

    def messages(path: Path) -> list[Any]:
        data, at, part, found = path.read_bytes(), 7, b"", []
        while at + 7 <= len(data):
            if (left := 2**15 - at % 2**15) < 7:  # the rest of the block is too short for a header
                at += left
                continue
            _, length, kind = struct.unpack_from("<IHB", data, at)
            part += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # a whole message, or its last part
                found.append(Record.FromString(part))
                part = b""
        return found

    wandb.teardown()  # makes its background process write everything
    runs: dict[str, TrackedRun] = {}
    for path in sorted((resolved.config.logger.path / "wandb").glob("offline-run-*/*.wandb")):
        key = path.stem.removeprefix("run-")
        for message in messages(path):
            if message.HasField("run") and key not in runs:
                settings = {it.key: json.loads(it.value_json) for it in message.run.config.update}
                runs[key] = TrackedRun(key, message.run.display_name, settings)
            if message.HasField("history"):
                for item in message.history.item:
                    name = item.key or ".".join(item.nested_key)
                    if not name.startswith("_"):
                        runs[key].sent.append(((message.history.step.num, name), json.loads(item.value_json)))
            if message.HasField("exit"):
                runs[key].ending = message.exit.exit_code
    return list(runs.values())


def mlflow_runs(resolved: ResolvedRun) -> list[TrackedRun]:
    import mlflow  # pyrefly: ignore[missing-import]

    client = mlflow.MlflowClient(f"sqlite:///{resolved.config.logger.path / 'mlflow.db'}")
    project = client.get_experiment_by_name(resolved.config.logger.project).experiment_id
    runs = []
    for one in client.search_runs([project], order_by=["attributes.start_time ASC"]):
        tracked = TrackedRun(one.info.run_id, one.info.run_name, one.data.params, ending=one.info.status)
        for name in one.data.metrics:
            tracked.sent += [
                ((point.step, name), point.value) for point in client.get_metric_history(one.info.run_id, name)
            ]
        runs.append(tracked)
    return runs


def trackio_runs(resolved: ResolvedRun) -> list[TrackedRun]:
    import sqlite3

    from trackio.utils import TRACKIO_DIR  # pyrefly: ignore[missing-import]

    with sqlite3.connect(TRACKIO_DIR / f"{resolved.config.logger.project}.db") as database:
        configs = database.execute("SELECT run_id, run_name, config FROM configs ORDER BY id").fetchall()
        metrics = database.execute("SELECT run_id, step, metrics FROM metrics ORDER BY id").fetchall()
    runs = {}
    for key, name, config in configs:
        runs.setdefault(key, TrackedRun(key, name, json.loads(config)))
    for key, step, figures in metrics:
        for name, value in json.loads(figures).items():
            if name == "status":
                runs[key].ending = value
            else:
                runs[key].sent.append(((step, name), value))
    return list(runs.values())


RUNS: dict[str, Callable[[ResolvedRun], list[TrackedRun]]] = {
    "tensorboard": tensorboard_runs, "wandb": wandb_runs, "mlflow": mlflow_runs, "trackio": trackio_runs,
}  # fmt: skip
ENDINGS = {
    "tensorboard": {"completed": "completed", "failed": "failed", "interrupted": "interrupted"},
    "wandb": {"completed": 0, "failed": 1, "interrupted": 1},
    "mlflow": {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"},
    "trackio": {"completed": "completed", "failed": "failed", "interrupted": "interrupted"},
}
# TensorBoard runs without warnings; warnings inside the other tools are not our concern.
each_tool = pytest.mark.parametrize(
    "name",
    [
        name
        if name == "tensorboard"
        else pytest.param(name, marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")])
        for name in NAMES
        if name != "none"
    ],
)


@pytest.fixture
def make_setup(
    compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ResolvedRun]:
    """Resolve a tiny run in an empty folder: ``make_setup("wandb", "method=lora")``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow itself sets it when a URI is set in code
    project = uuid.uuid4().hex  # trackio keeps its folder for the life of the process

    def make(name: str, *overrides: str) -> ResolvedRun:
        for package in [] if name == "none" else ["accelerate", name]:
            pytest.importorskip(package)
        return resolve(compose(*TINY, f"logger={name}", f"logger.project={project}", *overrides), {})

    return make


def expected(record: RunRecord) -> dict[tuple[int, str], float]:
    """Return what should have been sent for the epochs of a record."""
    on = record.scores.selected_on
    return {
        (number * STEPS, name): value
        for number, epoch in enumerate(record.scores.epochs, 1)
        for name, value in [
            ("train/loss", epoch.train_loss), ("time_s", epoch.time_s or 0),
            *((f"{on}/{score}", value) for score, value in epoch.scores.items()),
        ]
    }  # fmt: skip


def expected_at_end(record: RunRecord) -> dict[tuple[int, str], float]:
    step = STEPS * len(record.scores.epochs)
    figures = {"total_time_s": record.time_s["total"], "peak_memory_bytes": max(record.memory_bytes.values())}
    for which in ("selected", "last"):
        figures |= {f"{which}/{name}": value for name, value in getattr(record, which).items()}
    return {(step, name): value for name, value in figures.items()}


def assert_sent(tracked: TrackedRun, *figures: dict[tuple[int, str], float]) -> None:
    """Check that exactly these metrics were sent, each once."""
    sent = dict(tracked.sent)
    assert len(sent) == len(tracked.sent)
    assert sent == pytest.approx({key: value for those in figures for key, value in those.items()}, rel=1e-6)


class Interrupt(Observer):
    """Stops a run, as Ctrl-C does, before the step with this number, counted from 0."""

    def __init__(self, step: int):
        self.step = step

    def on_step_start(self, training: Training) -> None:
        if training.step == self.step:
            raise KeyboardInterrupt


def interrupted(resolved: ResolvedRun, *, before_step: int) -> RunRecord:
    """Run until a keyboard interrupt before that step, counted from 0."""
    with suppress(KeyboardInterrupt):
        run(resolved, [Interrupt(before_step)])
    return load_record(resolved.record_path)


# What a tracker stores


def test_every_tracker_is_tested() -> None:
    assert set(NAMES) == {"none", *RUNS}


@each_tool
@pytest.mark.parametrize("protocol", ["paper", "fair"])
def test_tracked_run_equals_its_record(make_setup: Callable[..., ResolvedRun], name: str, protocol: str) -> None:
    held_out = ["limit_train=44"] if protocol == "fair" else []  # 4 of these rows are held out
    resolved = make_setup(name, f"protocol={protocol}", *held_out)
    record = run(resolved)
    [tracked] = RUNS[name](resolved)
    assert tracked.name == record.id
    assert_sent(tracked, expected(record), expected_at_end(record))
    assert tracked.ending == ENDINGS[name]["completed"]
    for key, value in {"method.rank": 8, "lr": 3e-3, "optimizer.betas": "[0.9, 0.98]", "task.name": "grammar"}.items():
        assert type(value)(tracked.settings[key]) == value  # MLflow stores every value as text
    assert not {key for key in tracked.settings if key.startswith("logger") or key.endswith("_dir")}
    assert not resolved.tracking.exists()


@pytest.mark.slow
@each_tool
def test_failed_run_is_marked_failed_and_keeps_its_metrics(make_setup: Callable[..., ResolvedRun], name: str) -> None:
    resolved = make_setup(name, "method=ft", "lr=1e30")
    with pytest.raises(TrainingFailedError):
        run(resolved)
    [record] = load_records(resolved.results_dir)
    [tracked] = RUNS[name](resolved)
    assert record.status == "failed"
    assert tracked.ending == ENDINGS[name]["failed"]
    assert_sent(tracked, expected(record), expected_at_end(record))


@pytest.mark.slow
@each_tool
def test_resumed_run_stays_one_run_with_each_epoch_once(
    make_setup: Callable[..., ResolvedRun], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Interrupted in epoch 2 after a checkpoint, and in epoch 3 without a newer one, so epoch 2 is trained twice."""
    first = interrupted(make_setup(name, "checkpoint_s=0"), before_step=STEPS + 2)
    resolved = make_setup(name)
    [tracked] = RUNS[name](resolved)
    key = tracked.key
    assert tracked.ending == ENDINGS[name]["interrupted"]
    assert_sent(tracked, expected(first), expected_at_end(first))

    second = interrupted(resolved, before_step=2 * STEPS + 3)
    assert [len(record.scores.epochs) for record in (first, second)] == [1, 2]
    record = run(resolved)
    [tracked] = RUNS[name](resolved)
    assert tracked.key == key
    assert tracked.ending == ENDINGS[name]["completed"]
    timeless = [(place, value) for place, value in tracked.sent if "time_s" not in place[1] and "peak" not in place[1]]
    end = {place: value for place, value in expected_at_end(record).items() if "time_s" not in place[1]}
    del end[3 * STEPS, "peak_memory_bytes"]
    figures = {place: value for place, value in expected(record).items() if place[1] != "time_s"}
    assert_sent(TrackedRun("", "", {}, timeless), figures, end)
    assert sorted(step for (step, figure), _ in tracked.sent if figure == "time_s") == [5, 10, 15]
    assert not resolved.tracking.exists()


@pytest.mark.slow
@each_tool
def test_restarted_run_becomes_a_new_run(make_setup: Callable[..., ResolvedRun], name: str) -> None:
    resolved = make_setup(name, "epochs=1", "resume=never")
    records = [run(resolved), run(resolved)]
    tracked = RUNS[name](resolved)
    assert len({one.key for one in tracked}) == len(tracked) == 2
    for one, record in zip(tracked, records, strict=True):
        assert one.name.startswith(resolved.id)
        assert_sent(one, expected(record), expected_at_end(record))


@pytest.mark.slow
def test_switching_trackers_sends_earlier_epochs_too(
    make_setup: Callable[..., ResolvedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(make_setup("none", "checkpoint_s=0"), before_step=STEPS + 2)
    resolved = make_setup("tensorboard")
    record = run(resolved)
    [tracked] = tensorboard_runs(resolved)
    assert_sent(tracked, expected(record), expected_at_end(record))


# What a logger must not change


@pytest.mark.slow
def test_logger_changes_neither_id_nor_scores(make_setup: Callable[..., ResolvedRun]) -> None:
    plain, tracked = make_setup("none", "results_dir=plain"), make_setup("tensorboard", "results_dir=tracked")
    assert plain.id == tracked.id
    assert plain.identity == tracked.identity
    left, right = run(plain), run(tracked)
    assert left.config == right.config
    assert "logger" not in left.config
    for record in (left, right):
        for epoch in record.scores.epochs:
            epoch.time_s = None
    assert left.scores == right.scores


@pytest.mark.slow
def test_without_a_logger_no_tracker_is_imported_and_nothing_written(warm_python: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\n"
        f"sys.argv = ['rosa-bench', *{TINY}]\n"
        "from rosa_bench.cli.main import main\n"
        "main()\n"
        "print(sorted({'torch.utils.tensorboard', 'tensorboard', 'wandb', 'mlflow', 'trackio'} & set(sys.modules)))\n"
    )
    done = subprocess.run([*warm_python, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "[]"
    assert [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()] == []


# Trackers that fail


def test_failing_tracker_warns_once_and_the_run_completes(
    make_setup: Callable[..., ResolvedRun], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resolved = make_setup("tensorboard")
    from accelerate.tracking import TensorBoardTracker

    asked = []

    def gone(_self: object, values: dict[str, Any], step: int | None = None) -> None:
        asked.append(step)
        raise ConnectionError("the server is gone\nand more of it")

    monkeypatch.setattr(TensorBoardTracker, "log", gone)
    monkeypatch.setattr(TensorBoardTracker, "finish", lambda _self: asked.append("finish"))  # pyrefly: ignore[bad-argument-type]
    monkeypatch.setattr(tensorboard.TensorBoard, "end", lambda _self, tracker, _status, _step: tracker.finish())
    with caplog.at_level(logging.WARNING, "rosa_bench.trackers.base"):
        record = run(resolved)
    assert record.status == "completed"
    assert len(record.scores.epochs) == 3
    assert asked == [STEPS, "finish"]
    [warning] = [one.getMessage() for one in caplog.records if one.name == "rosa_bench.trackers.base"]
    assert warning == "logger=tensorboard failed, so nothing more is sent to it: ConnectionError: the server is gone"


def test_resuming_sends_what_a_failing_tracker_missed(
    make_setup: Callable[..., ResolvedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = make_setup("tensorboard", "checkpoint_s=0")
    from accelerate.tracking import TensorBoardTracker

    with monkeypatch.context() as patched:
        patched.setattr(TensorBoardTracker, "log", lambda *_, **__: 1 / 0)
        interrupted(resolved, before_step=STEPS + 2)
    record = run(resolved)
    [tracked] = tensorboard_runs(resolved)
    assert_sent(tracked, expected(record), expected_at_end(record))


def test_tracker_that_cannot_start_stops_the_run_before_training(make_setup: Callable[..., ResolvedRun]) -> None:
    resolved = make_setup("tensorboard", "logger.folder=taken/board")
    Path("taken").write_text("a file")
    with pytest.raises(
        UserError, match=r"^logger=tensorboard cannot start: NotADirectoryError: .*logger\.folder=FOLDER$"
    ):
        run(resolved)
    assert not runs_folder(resolved.results_dir).exists()


@pytest.mark.slow
def test_wandb_without_a_login_neither_prompts_nor_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for variable in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    done = command_line(*TINY, "logger=wandb", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("rosa-bench: logger=wandb cannot start: ")
    assert "wandb login" in done.stderr
    assert "WANDB_MODE=offline" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.json"))


# Trackers that are not installed


def command_line(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``rosa-bench`` in a new process without a terminal. It finally prints whether torch was imported."""
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        f"sys.argv = ['rosa-bench', *{arguments}]\n"
        "from rosa_bench.cli.main import main\n"
        "main()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        cwd=folder,
    )  # fmt: skip


@pytest.mark.parametrize(("packages", "message"), [
    ("[unheard_of]", "needs the package unheard_of; run: pip install unheard_of"),
    ("[json,unheard_of,nowhere]", "needs the packages unheard_of, nowhere; run: pip install unheard_of nowhere"),
])  # fmt: skip
def test_missing_package_is_reported_before_torch_is_imported(tmp_path: Path, packages: str, message: str) -> None:
    done = command_line(*TINY, "logger=wandb", f"logger.packages={packages}", folder=tmp_path)
    assert (done.returncode, done.stderr) == (1, f"rosa-bench: logger=wandb {message}\n")
    assert done.stdout == "False\n"
    assert not list(tmp_path.iterdir())


def test_missing_package_is_reported_before_the_first_job_of_a_sweep(tmp_path: Path) -> None:
    done = command_line("-m", *TINY, "seed=0,1", "logger=trackio", "logger.packages=[unheard_of]", folder=tmp_path)
    message = "rosa-bench: logger=trackio needs the package unheard_of; run: pip install unheard_of\n"
    assert (done.returncode, done.stderr) == (1, message)  # both jobs share the mistake, so it is reported once
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_every_logger_composes_and_checks_its_packages(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    checked = []
    monkeypatch.setattr(base, "find_spec", lambda package: checked.append(package) or "found")
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
        raw = hydra.compose("config", overrides=[f"logger={name}", "output_dir=here", "logger.project=composed"])
    logger = parse(raw).logger
    assert (logger.name, logger.project) == (name, "composed")
    assert checked == logger.packages == ([] if name == "none" else ["accelerate", name])
    assert Path("here").absolute() in (logger.path, logger.path.parent)
    assert bool(logger.help) == (name != "none")
    with pytest.raises(AttributeError):
        logger.name = "other"  # pyrefly: ignore[read-only]


def test_default_logger_is_none(compose: Callable[..., RunConfig]) -> None:
    assert compose("task=grammar").logger.name == "none"


def test_flatten_joins_keys_with_dots_and_turns_lists_into_text() -> None:
    settings = {"lr": 0.1, "on": True, "none": None, "a": {"b": {"c": "text"}, "d": [1, "two"]}, "empty": {}}
    assert base.flatten(settings) == {"lr": 0.1, "on": True, "none": None, "a.b.c": "text", "a.d": '[1, "two"]'}
