"""Each tool for real, read back with its own library; one that is not installed has its tests skipped."""

import json
import logging
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import hydra
import pytest

from rosa_bench.config.folder import conf_folder
from rosa_bench.config.parse import parse
from rosa_bench.config.schema import RunConfig
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_record, load_records, runs_folder
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import run
from rosa_bench.system.errors import UserError
from rosa_bench.trackers import base as tracking
from rosa_bench.trackers import tensorboard
from rosa_bench.training import loop as train
from rosa_bench.training.state import TrainingFailedError

NAMES = sorted(path.stem for path in (conf_folder() / "logger").glob("*.yaml"))
TINY = (
    "task=grammar", "model=tiny_bert", "method=lora", "device=cpu", "limit_train=40", "limit_eval=24", "batch_size=8",
    "epochs=3", "lr=3e-3", "checkpoint_s=1e6",
)  # fmt: skip
STEPS = 5  # an epoch


@dataclass
class Shown:
    """What a tool shows of one run.

    key     by what the tool knows it
    sent    all figures, in order: (step, name) and the value
    ending  in the tool's own words
    """

    key: str
    name: str
    settings: dict[str, Any]
    sent: list[tuple[tuple[int, str], float]] = field(default_factory=list)
    ending: Any = None


def tensorboard_runs(resolved: ResolvedRun) -> list[Shown]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

    runs = []
    for folder in sorted(resolved.config.logger.place.iterdir()):
        if not folder.is_dir():
            continue
        events = EventAccumulator(str(folder), purge_orphaned_data=False).Reload()
        kept = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
        settings = {
            name: getattr(value, value.WhichOneof("kind"))
            for name, value in parse_session_start_info_plugin_data(kept).hparams.items()
        }
        shown = Shown(folder.name, folder.name, settings)
        for name in events.Tags()["scalars"]:
            shown.sent += [((event.step, name), event.value) for event in events.Scalars(name)]
        if "status/text_summary" in events.Tags()["tensors"]:
            shown.ending = events.Tensors("status/text_summary")[-1].tensor_proto.string_val[0].decode()
        assert [path for path in folder.iterdir() if path.is_dir()] == []  # which would be shown as another run
        runs.append(shown)
    return runs


def wandb_runs(resolved: ResolvedRun) -> list[Shown]:
    """Out of the files that ``wandb sync`` sends: LevelDB's log format, behind 7 bytes, of protobuf records."""
    import struct

    import wandb  # pyright: ignore[reportMissingImports]
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportMissingImports]

    def messages(path: Path) -> list[Any]:
        data, at, part, found = path.read_bytes(), 7, b"", []
        while at + 7 <= len(data):
            if (left := 2**15 - at % 2**15) < 7:  # what is left of a block is too short for a header
                at += left
                continue
            _, length, kind = struct.unpack_from("<IHB", data, at)
            part += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or the last part
                found.append(Record.FromString(part))
                part = b""
        return found

    wandb.teardown()  # only then has its own process written all
    runs: dict[str, Shown] = {}
    for path in sorted((resolved.config.logger.place / "wandb").glob("offline-run-*/*.wandb")):
        key = path.stem.removeprefix("run-")
        for message in messages(path):
            if message.HasField("run") and key not in runs:
                settings = {it.key: json.loads(it.value_json) for it in message.run.config.update}
                runs[key] = Shown(key, message.run.display_name, settings)
            if message.HasField("history"):
                for item in message.history.item:
                    name = item.key or ".".join(item.nested_key)
                    if not name.startswith("_"):
                        runs[key].sent.append(((message.history.step.num, name), json.loads(item.value_json)))
            if message.HasField("exit"):
                runs[key].ending = message.exit.exit_code
    return list(runs.values())


def mlflow_runs(resolved: ResolvedRun) -> list[Shown]:
    import mlflow  # pyright: ignore[reportMissingImports]

    client = mlflow.MlflowClient(f"sqlite:///{resolved.config.logger.place / 'mlflow.db'}")
    project = client.get_experiment_by_name(resolved.config.logger.project).experiment_id
    runs = []
    for one in client.search_runs([project], order_by=["attributes.start_time ASC"]):
        shown = Shown(one.info.run_id, one.info.run_name, one.data.params, ending=one.info.status)
        for name in one.data.metrics:
            shown.sent += [
                ((point.step, name), point.value) for point in client.get_metric_history(one.info.run_id, name)
            ]
        runs.append(shown)
    return runs


def trackio_runs(resolved: ResolvedRun) -> list[Shown]:
    import sqlite3

    from trackio.utils import TRACKIO_DIR  # pyright: ignore[reportMissingImports]

    with sqlite3.connect(TRACKIO_DIR / f"{resolved.config.logger.project}.db") as base:
        configs = base.execute("SELECT run_id, run_name, config FROM configs ORDER BY id").fetchall()
        metrics = base.execute("SELECT run_id, step, metrics FROM metrics ORDER BY id").fetchall()
    runs = {}
    for key, name, config in configs:
        runs.setdefault(key, Shown(key, name, json.loads(config)))
    for key, step, figures in metrics:
        for name, value in json.loads(figures).items():
            if name == "status":
                runs[key].ending = value
            else:
                runs[key].sent.append(((step, name), value))
    return list(runs.values())


RUNS: dict[str, Callable[[ResolvedRun], list[Shown]]] = {
    "tensorboard": tensorboard_runs, "wandb": wandb_runs, "mlflow": mlflow_runs, "trackio": trackio_runs,
}  # fmt: skip
ENDINGS = {
    "tensorboard": {"completed": "completed", "failed": "failed", "interrupted": "interrupted"},
    "wandb": {"completed": 0, "failed": 1, "interrupted": 1},
    "mlflow": {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"},
    "trackio": {"completed": "completed", "failed": "failed", "interrupted": "interrupted"},
}
# TensorBoard's own code is clean; what the others warn of in themselves is not ours.
each_tool = pytest.mark.parametrize(
    "name",
    [
        name if name == "tensorboard" else pytest.param(name, marks=pytest.mark.filterwarnings("ignore"))
        for name in NAMES
        if name != "none"
    ],
)


@pytest.fixture
def make_setup(
    compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ResolvedRun]:
    """``make_setup("wandb", "method=lora")``: such a tiny run, made ready in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it too, where it is told in the program
    project = uuid.uuid4().hex  # trackio keeps its folder as long as the process lives

    def make(name: str, *overrides: str) -> ResolvedRun:
        for package in [] if name == "none" else ["accelerate", name]:
            pytest.importorskip(package)
        return resolve(compose(*TINY, f"logger={name}", f"logger.project={project}", *overrides), {})

    return make


def expected(record: RunRecord) -> dict[tuple[int, str], float]:
    """What a record says should have been sent of its epochs."""
    on = record.scores["selected_on"]
    return {
        (number * STEPS, name): value
        for number, epoch in enumerate(record.scores["epochs"], 1)
        for name, value in [
            ("train/loss", epoch["train_loss"]), ("time_s", epoch["time_s"]),
            *((f"{on}/{score}", value) for score, value in epoch["scores"].items()),
        ]
    }  # fmt: skip


def expected_at_end(record: RunRecord) -> dict[tuple[int, str], float]:
    step = STEPS * len(record.scores["epochs"])
    figures = {"total_time_s": record.time_s["total"], "peak_memory_bytes": max(record.memory_bytes.values())}
    for which in ("selected", "last"):
        figures |= {f"{which}/{name}": value for name, value in (record.scores[which] or {}).items()}
    return {(step, name): value for name, value in figures.items()}


def assert_sent(shown: Shown, *figures: dict[tuple[int, str], float]) -> None:
    """These figures were sent, each once, and no other."""
    sent = dict(shown.sent)
    assert len(sent) == len(shown.sent)
    assert sent == pytest.approx({key: value for those in figures for key, value in those.items()}, rel=1e-6)


def interrupted(resolved: ResolvedRun, monkeypatch: pytest.MonkeyPatch, *, before_step: int) -> RunRecord:
    """Run, and be stopped from the keyboard before that step, counted from 0."""
    real = train.lr_at

    def lr_at(step: int, *arguments: Any) -> float:
        if step == before_step:
            raise KeyboardInterrupt
        return real(step, *arguments)

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(train, "lr_at", lr_at)
        run(resolved)
    return load_record(runs_folder(resolved.results_dir) / f"{resolved.id}.json")


# What is shown


def test_every_tool_is_tested() -> None:
    assert set(NAMES) == {"none", *RUNS}


@each_tool
@pytest.mark.parametrize("protocol", ["paper", "fair"])
def test_a_run_is_shown_as_it_is_recorded(make_setup: Callable[..., ResolvedRun], name: str, protocol: str) -> None:
    held_out = ["limit_train=44"] if protocol == "fair" else []  # of which 4 are held out
    resolved = make_setup(name, f"protocol={protocol}", *held_out)
    record = run(resolved)
    [shown] = RUNS[name](resolved)
    assert shown.name == record.id
    assert_sent(shown, expected(record), expected_at_end(record))
    assert shown.ending == ENDINGS[name]["completed"]
    for key, value in {"method.rank": 8, "lr": 3e-3, "optimizer.betas": "[0.9, 0.98]", "task.name": "grammar"}.items():
        assert type(value)(shown.settings[key]) == value  # MLflow makes texts of all
    assert not {key for key in shown.settings if key.startswith("logger") or key.endswith("_dir")}
    assert not resolved.tracking.exists()


@each_tool
def test_a_run_that_fails_is_shown_as_failed_with_what_it_had(
    make_setup: Callable[..., ResolvedRun], name: str
) -> None:
    resolved = make_setup(name, "method=ft", "lr=1e30")
    with pytest.raises(TrainingFailedError):
        run(resolved)
    [record] = load_records(resolved.results_dir)
    [shown] = RUNS[name](resolved)
    assert record.status == "failed"
    assert shown.ending == ENDINGS[name]["failed"]
    assert_sent(shown, expected(record), expected_at_end(record))


@each_tool
def test_a_run_that_goes_on_is_shown_as_one_with_each_epoch_once(
    make_setup: Callable[..., ResolvedRun], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Stopped in epoch 2 after a checkpoint, in epoch 3 without a newer one: epoch 2 is trained twice."""
    first = interrupted(make_setup(name, "checkpoint_s=0"), monkeypatch, before_step=STEPS + 2)
    resolved = make_setup(name)
    [shown] = RUNS[name](resolved)
    key = shown.key
    assert shown.ending == ENDINGS[name]["interrupted"]
    assert_sent(shown, expected(first), expected_at_end(first))

    second = interrupted(resolved, monkeypatch, before_step=2 * STEPS + 3)
    assert [len(record.scores["epochs"]) for record in (first, second)] == [1, 2]
    record = run(resolved)
    [shown] = RUNS[name](resolved)
    assert shown.key == key
    assert shown.ending == ENDINGS[name]["completed"]
    timeless = [(place, value) for place, value in shown.sent if "time_s" not in place[1] and "peak" not in place[1]]
    end = {place: value for place, value in expected_at_end(record).items() if "time_s" not in place[1]}
    del end[3 * STEPS, "peak_memory_bytes"]
    figures = {place: value for place, value in expected(record).items() if place[1] != "time_s"}
    assert_sent(Shown("", "", {}, timeless), figures, end)
    assert sorted(step for (step, figure), _ in shown.sent if figure == "time_s") == [5, 10, 15]
    assert not resolved.tracking.exists()


@each_tool
def test_a_run_that_starts_anew_is_shown_as_another(make_setup: Callable[..., ResolvedRun], name: str) -> None:
    resolved = make_setup(name, "epochs=1", "resume=never")
    records = [run(resolved), run(resolved)]
    shown = RUNS[name](resolved)
    assert len({one.key for one in shown}) == len(shown) == 2
    for one, record in zip(shown, records, strict=True):
        assert one.name.startswith(resolved.id)
        assert_sent(one, expected(record), expected_at_end(record))


def test_epochs_that_another_tool_was_sent_are_shown_too(
    make_setup: Callable[..., ResolvedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(make_setup("none", "checkpoint_s=0"), monkeypatch, before_step=STEPS + 2)
    resolved = make_setup("tensorboard")
    record = run(resolved)
    [shown] = tensorboard_runs(resolved)
    assert_sent(shown, expected(record), expected_at_end(record))


# What a logger does not change


def test_a_logger_changes_neither_a_runs_name_nor_its_figures(make_setup: Callable[..., ResolvedRun]) -> None:
    plain, followed = make_setup("none", "results_dir=plain"), make_setup("tensorboard", "results_dir=followed")
    assert plain.id == followed.id
    assert plain.identity == followed.identity
    left, right = run(plain), run(followed)
    assert asdict(left)["config"] == asdict(right)["config"]
    assert "logger" not in left.config
    for record in (left, right):
        record.scores["epochs"] = [{**epoch, "time_s": 0} for epoch in record.scores["epochs"]]
    assert left.scores == right.scores


def test_without_a_logger_nothing_of_one_is_imported_or_written(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        f"sys.argv = ['rosa-bench', *{TINY}]\n"
        "from rosa_bench.cli.main import main\n"
        "main()\n"
        "print(sorted({'torch.utils.tensorboard', 'tensorboard', 'wandb', 'mlflow', 'trackio'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "[]"
    assert [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()] == []


# Tools that fail


def test_a_tool_that_fails_is_warned_of_once_and_costs_no_run(
    make_setup: Callable[..., ResolvedRun], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resolved = make_setup("tensorboard")
    from accelerate.tracking import TensorBoardTracker

    asked = []

    def gone(_self: object, values: dict[str, Any], step: int | None = None) -> None:
        asked.append(step)
        raise ConnectionError("the server is gone\nand more of it")

    monkeypatch.setattr(TensorBoardTracker, "log", gone)
    monkeypatch.setattr(TensorBoardTracker, "finish", lambda _self: asked.append("finish"))
    monkeypatch.setattr(tensorboard.TensorBoard, "end", lambda _self, tracker, _status, _step: tracker.finish())
    with caplog.at_level(logging.WARNING, "rosa_bench.trackers.base"):
        record = run(resolved)
    assert record.status == "completed"
    assert len(record.scores["epochs"]) == 3
    assert asked == [STEPS, "finish"]
    [warning] = [one.getMessage() for one in caplog.records if one.name == "rosa_bench.trackers.base"]
    assert warning == "logger=tensorboard failed and is sent no more: ConnectionError: the server is gone"


def test_what_a_failing_tool_was_not_sent_is_sent_when_the_run_goes_on(
    make_setup: Callable[..., ResolvedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = make_setup("tensorboard", "checkpoint_s=0")
    from accelerate.tracking import TensorBoardTracker

    with monkeypatch.context() as patched:
        patched.setattr(TensorBoardTracker, "log", lambda *_, **__: 1 / 0)
        interrupted(resolved, monkeypatch, before_step=STEPS + 2)
    record = run(resolved)
    [shown] = tensorboard_runs(resolved)
    assert_sent(shown, expected(record), expected_at_end(record))


def test_a_tool_that_cannot_start_ends_the_run_before_training(make_setup: Callable[..., ResolvedRun]) -> None:
    resolved = make_setup("tensorboard", "logger.folder=taken/board")
    Path("taken").write_text("a file")
    with pytest.raises(
        UserError, match=r"^logger=tensorboard cannot start: NotADirectoryError: .*logger\.folder=FOLDER$"
    ):
        run(resolved)
    assert not runs_folder(resolved.results_dir).exists()


def test_wandb_without_a_login_neither_asks_nor_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


# Tools that are not there


def command_line(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """``rosa-bench`` in a process of its own, without a terminal; it ends by saying whether it loaded torch."""
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


@pytest.mark.parametrize(("packages", "told"), [
    ("[unheard_of]", "needs the package unheard_of; install it: pip install unheard_of"),
    ("[json,unheard_of,nowhere]", "needs unheard_of, nowhere; install them: pip install unheard_of nowhere"),
])  # fmt: skip
def test_a_missing_package_is_told_before_anything_is_loaded(tmp_path: Path, packages: str, told: str) -> None:
    done = command_line(*TINY, "logger=wandb", f"logger.packages={packages}", folder=tmp_path)
    assert (done.returncode, done.stderr) == (1, f"rosa-bench: logger=wandb {told}\n")
    assert done.stdout == "False\n"
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_told_before_the_first_job_of_a_sweep(tmp_path: Path) -> None:
    done = command_line("-m", *TINY, "seed=0,1", "logger=trackio", "logger.packages=[unheard_of]", folder=tmp_path)
    message = "rosa-bench: logger=trackio needs the package unheard_of; install it: pip install unheard_of\n"
    assert (done.returncode, done.stderr) == (1, message)  # both jobs share the mistake, so it is reported once
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_a_logger_composes_and_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked = []
    monkeypatch.setattr(tracking, "find_spec", lambda package: asked.append(package) or "found")
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
        raw = hydra.compose("config", overrides=[f"logger={name}", "output_dir=here", "logger.project=composed"])
    logger = parse(raw).logger
    assert (logger.name, logger.project) == (name, "composed")
    assert asked == logger.packages == ([] if name == "none" else ["accelerate", name])
    assert Path("here").absolute() in (logger.place, logger.place.parent)
    assert bool(logger.help) == (name != "none")
    with pytest.raises(AttributeError):
        logger.name = "other"  # pyright: ignore[reportAttributeAccessIssue]


def test_without_another_word_there_is_no_logger(compose: Callable[..., RunConfig]) -> None:
    assert compose("task=grammar").logger.name == "none"


def test_nested_settings_get_dotted_keys_and_lists_become_text() -> None:
    settings = {"lr": 0.1, "on": True, "none": None, "a": {"b": {"c": "text"}, "d": [1, "two"]}, "empty": {}}
    assert tracking.flat(settings) == {"lr": 0.1, "on": True, "none": None, "a.b.c": "text", "a.d": '[1, "two"]'}
