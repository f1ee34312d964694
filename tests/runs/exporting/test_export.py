"""Exports of runs: transformers and PEFT compute what the run's own model computes; mistakes are one line."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import EvalResultEntry, ModelCard
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import rosa_bench
from rosa_bench.adapters.lora import LoraAdapter
from rosa_bench.cli.commands.export import main
from rosa_bench.config.build import typed
from rosa_bench.layers.storage.quantised import KINDS as QUANTISED
from rosa_bench.models.base_dtype import round_to
from rosa_bench.models.spec import Encoder
from rosa_bench.models.weights.source import locate
from rosa_bench.records.record import RunRecord, from_values, to_values
from rosa_bench.report.writers.card import eval_entries, same_but_seed
from rosa_bench.runs.exporting.export import Request, facts_of, merged_model
from rosa_bench.runs.exporting.saved_adapter import RunFacts
from rosa_bench.system.errors import UserError

IDS = torch.arange(5, 21).reshape(2, 8)
SMALL = ["epochs=3", "limit_train=48", "limit_eval=12", "rank=2", "lr=1e-2", "device=cpu", "save_adapter=true"]
ENCODER = ["task=grammar", "model=tiny_roberta", "protocol=fair", *SMALL]
DECODER = ["task=restaurants", "task.decoding.max_new_tokens=2", "task.decoding.beams=1", *SMALL]
RUNS = {
    "encoder": [*ENCODER, "method=rosa", "method.resample_every=1"],
    **{
        kind: [*ENCODER, "method=rosa", "method.resample_every=1", f"base_dtype={kind}"]
        for kind in ("bfloat16", *QUANTISED)
    },
    "gpt2": [*DECODER, "model=tiny_gpt2", "protocol=fair", "method=rosa", "method.resample_every=1"],
    "llama": [*DECODER, "model=tiny_llama", "protocol=paper", "method=lora"],
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*tie_word_embeddings.*:UserWarning")
@pytest.mark.parametrize("kind", RUNS)
def test_every_export_computes_what_the_runs_model_computes(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    if kind in QUANTISED:
        pytest.importorskip("bitsandbytes")
    config = rosa_bench.compose([*RUNS[kind], "save_model=true"])
    record = rosa_bench.run(config)
    auto = AutoModelForSequenceClassification if RUNS[kind][0] == ENCODER[0] else AutoModelForCausalLM
    model = Path("outputs", record.id, "model")
    expected = logits(auto.from_pretrained(model))
    with_base(record)
    for to in ("lora", "merged", "peft"):
        main([record.id, f"to={to}"])
        folder = Path("exports", record.id, to)
        assert str(folder) in capsys.readouterr().out
        loaded = auto.from_pretrained(folder if to == "merged" else "base")
        if to != "merged":
            assert json.loads((folder / "adapter_config.json").read_text())["r"] <= 2 * 2 * 3  # 2 r (k + 1)
            loaded = PeftModel.from_pretrained(loaded, str(folder))
        torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-5)
        data: Any = ModelCard.load(folder / "README.md", ignore_metadata_errors=False).data
        assert data.eval_results[0].metric_value == pytest.approx(record.score, abs=1e-6)
        assert AutoTokenizer.from_pretrained(folder)("a").input_ids  # pyrefly: ignore[not-callable]
    if kind == "encoder":
        stored = json.loads(Path("exports", record.id, "merged/config.json").read_text())
        assert stored["id2label"] == {"0": "unacceptable", "1": "acceptable"}


def with_base(record: RunRecord) -> None:
    """Write the plain model of a run into the folder ``base``, as its task makes it."""
    from rosa_bench.api import compose, resolve

    settings = record.config
    config = compose([f"task={settings['task']['name']}", f"model={settings['model']['name']}", "limit_train=48",
                      "limit_eval=12", "device=cpu", f"protocol={settings['protocol']['name']}"])  # fmt: skip
    model = config.task.prepare(resolve(config).context).model
    if settings["base_dtype"] != "float32":
        round_to(settings["base_dtype"], model, head=config.method.head)
    model.save_pretrained("base")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small run has left its record and its adapter."""
    folder = tmp_path_factory.mktemp("finished")
    places = [f"results_dir={folder}/results", f"output_dir={folder}/outputs"]
    rosa_bench.run([*RUNS["encoder"], *places, "epochs=1"])
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> RunRecord:
    """The small run, copied into the current folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    [record] = rosa_bench.load_records("results")
    return record


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        main(list(arguments))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_export_overwrites_only_on_demand(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    main([run.id, "to=peft", "folder=mine"])
    said = "Classes, in the order of the outputs: unacceptable, acceptable."
    assert said in capsys.readouterr().out and said in (Path("mine") / "README.md").read_text()
    before = (Path("mine") / "adapter_model.safetensors").stat().st_mtime_ns
    assert "mine exists already" in refused(run.id, "to=lora", "folder=mine")
    assert (Path("mine") / "adapter_model.safetensors").stat().st_mtime_ns == before
    main([run.id, "to=lora", "folder=mine", "max_rank=1", "overwrite=true"])
    printed = capsys.readouterr().out
    assert "rank 1, compressed from rank" in printed and "% of the update is lost" in printed
    assert "vLLM does not serve it, because it has a trained head" in printed
    [path] = Path("results").glob("runs/*/*/*[0-9a-f].json")
    main([str(path), "to=merged"])
    assert Path("exports", run.id, "merged", "config.json").is_file()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_an_earlier_export_is_overwritten(run: RunRecord) -> None:
    main([run.id, "folder=mine"])
    adapter, mine, base = Path("outputs", run.id, "adapter"), Path("mine"), Path("base")
    base.mkdir()
    for name in ("README.md", "config.json", "model.safetensors"):
        (base / name).write_text("a model of somebody else")
    (mine / ".git").mkdir()
    (mine / ".git" / "HEAD").write_text("a history")
    before = files(Path())
    assert f"{adapter} is not a folder that was written" in refused(run.id, f"folder={adapter}", "overwrite=true")
    assert "base is not an export" in refused(run.id, "folder=base", "overwrite=true")
    assert "mine/.git would be lost" in refused(run.id, "to=merged", "folder=mine", "overwrite=true")
    assert files(Path()) == before


def test_an_export_that_fails_leaves_the_earlier_one_whole(run: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    main([run.id, "folder=mine"])
    before = files(Path())

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("rosa_bench.report.writers.card.model_card", fail)
    with pytest.raises(OSError, match="no space left"):
        main([run.id, "to=lora", "folder=mine", "overwrite=true"])
    assert files(Path()) == before


def test_the_base_model_of_a_run_whose_only_source_was_a_folder(run: RunRecord) -> None:
    with_base(run)
    adapter = Path("outputs", run.id, "adapter")
    for file in adapter.glob("*token*"):
        (Path("base") / file.name).write_bytes(file.read_bytes())
    model = run.config["model"] | {"name": "mine", "random": None}
    identity = locate(typed(Encoder, model | {"path": "base"}, at="model")).identity
    [path] = Path("results").glob("runs/*/*/*[0-9a-f].json")
    record = json.loads(path.read_text())
    record["config"]["model"] = model
    record["model"] = {"source": "path", "commit": None, **identity}
    path.write_text(json.dumps(record))
    assert "name it with base=FOLDER" in refused(str(path), "to=merged")
    main([str(path), "to=merged", "base=base"])
    assert Path("exports", run.id, "merged", "model.safetensors").is_file()


def test_mistakes_are_one_line(run: RunRecord) -> None:
    assert "usage: rosa-bench export RUN" in refused("to=lora")
    assert "to=onnx is not known" in refused(run.id, "to=onnx")
    assert "is not a run in results; did you mean" in refused(run.id[:-1] + "z", "to=peft")
    assert "max_rank is for to=lora and to=peft" in refused(run.id, "to=merged", "max_rank=4")
    assert "has no adapter; run" in refused(run.id, "to=peft", "output_dir=elsewhere")
    adapter = Path("outputs", run.id, "adapter")
    facts = json.loads((adapter / "run.json").read_text())
    (adapter / "run.json").write_text(json.dumps(facts | {"run": "another"}))
    assert "the adapter of another run, another" in refused(run.id, "to=peft")
    (adapter / "adapter_model.safetensors").write_bytes(b"0" * 100)
    assert "has no adapter of a run" in refused(run.id, "to=peft")
    assert not Path("exports").exists()


@pytest.mark.parametrize("change", [
    {"seed": -1}, {"seed": 2**32}, {"seed": True}, {"seed": "0"}, {"seed": None},
    {"labels": "ab"}, {"labels": [1, 2]}, {"labels": None}, {"num_outputs": 3}, {"num_outputs": "2"},
])  # fmt: skip
def test_facts_that_no_run_wrote_are_refused(
    tmp_path: Path, make_record: Callable[..., RunRecord], change: dict[str, Any]
) -> None:
    record = make_record("task=cola")
    good = {"run": record.id, "seed": 0, "num_outputs": 2, "labels": ["no", "yes"]}
    (tmp_path / "run.json").write_text(json.dumps(good))
    assert facts_of(tmp_path, record) == RunFacts(**good)
    (tmp_path / "run.json").write_text(json.dumps(good | change))
    with pytest.raises(UserError, match=r"run\.json cannot be read: .*(seed|num_outputs|labels)"):
        facts_of(tmp_path, record)


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", "5", "null", "[" * 100_000])
def test_facts_that_are_not_a_json_object_are_refused(
    tmp_path: Path, make_record: Callable[..., RunRecord], text: str
) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json cannot be read: ") as caught:
        facts_of(tmp_path, make_record("task=cola"))
    assert "\n" not in str(caught.value)


def test_an_export_follows_no_link_and_deletes_no_folder_of_others(run: RunRecord) -> None:
    adapter = Path("outputs", run.id, "adapter")
    Path("secret").write_text("not to be shared")
    (adapter / "tokenizer_extra.json").symlink_to(Path("secret").resolve())
    Path("home").mkdir()
    Path("home", "notes.txt").write_text("precious")
    Path("link").symlink_to(Path("home").resolve())
    for folder in ("home", "link"):
        assert f"{folder} is not a folder that was written" in refused(run.id, f"folder={folder}", "overwrite=true")
    assert [file.name for file in Path("home").iterdir()] == ["notes.txt"]
    main([run.id, "folder=mine"])
    assert "not to be shared" not in {file.read_text(errors="replace") for file in Path("mine").iterdir()}
    assert not Path("mine", "tokenizer_extra.json").exists()
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"task_type": "../../x"}))
    assert "task_type=../../x is not known; choose one of: CAUSAL_LM, SEQ_CLS" in refused(run.id, "folder=other")
    assert not Path("other").exists()


def test_weights_that_are_not_the_runs_are_refused(run: RunRecord) -> None:
    [path] = Path("results").glob("runs/*/*/*[0-9a-f].json")
    values = json.loads(path.read_text())
    values["model"]["config"]["hidden_size"] = 64
    path.write_text(json.dumps(values))
    assert "are not those of the run (config differs)" in refused(run.id, "to=merged")


@pytest.mark.parametrize(("method", "words"), [
    ("houlsby", "method=houlsby cannot be merged into weights, so it has no LoRA adapter"),
    ("laser", "method=laser adapts no layers, so it has no LoRA adapter; use save_model=true"),
    ("head_only", "method=head_only adapts no layers, so it has no LoRA adapter; use save_model=true"),
    ("ft", "method=ft adapts no layers, so it has no LoRA adapter; use save_model=true"),
])  # fmt: skip
def test_a_run_without_an_adapter_is_refused_before_data_are_read(method: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        rosa_bench.compose([*(one for one in ENCODER if one != "rank=2"), f"method={method}"])


def test_a_run_of_a_method_without_adapter_is_not_exported(
    make_record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    from rosa_bench.records.store import save_record

    for method in ("houlsby", "ft"):
        record = make_record("task=cola", f"method={method}")
        save_record(record, tmp_path / "results")
        assert f"method={method} has no LoRA adapter" in refused(record.id, "to=peft")


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_roberta"])
def test_a_base_model_without_a_file_of_its_own_is_of_the_same_kind(
    make_record: Callable[..., RunRecord], name: str
) -> None:
    task = "restaurants" if name == "tiny_llama" else "grammar"
    facts = RunFacts(run="", seed=0, num_outputs=2, labels=["a", "b"])
    models, request = [], Request(kind="merged", adapter=Path(), folder=Path(), sign="")
    for called in (name, "mine"):
        record = make_record(f"task={task}", f"model={name}")
        values = to_values(record)
        values["config"]["model"]["name"] = called
        models.append(merged_model(from_values(values), request, LoraAdapter(updates={}), facts))
    assert type(models[0]) is type(models[1])


def test_the_base_model_is_described(make_record: Callable[..., RunRecord]) -> None:
    from rosa_bench.runs.exporting.export import base_lines

    assert base_lines(make_record("task=cola")) == []
    [line] = base_lines(make_record("task=cola", model={"source": "wheel", "dequantised_from": "Q4_1"}))
    assert "dequantised from Q4_1" in line
    [line] = base_lines(make_record("task=cola", model={"source": "random"}))
    assert "random" in line


@pytest.mark.slow
def test_a_run_that_lacks_its_adapter_is_made_again(run: RunRecord) -> None:
    shutil.rmtree(Path("outputs", run.id, "adapter"))
    again = rosa_bench.run([*RUNS["encoder"], "epochs=1"])
    assert again.id == run.id and again.started_at >= run.started_at
    assert Path("outputs", run.id, "adapter", "adapter_config.json").is_file()


# The card


def test_the_interval_is_over_seeds_if_there_are_several(make_record: Callable[..., RunRecord]) -> None:
    from rosa_bench.report.writers.card import Export, model_card

    runs = [make_record("task=cola", "method=rosa", f"seed={seed}", dev=0.5 + seed / 100) for seed in range(3)]
    assert same_but_seed(runs[0], runs) == runs
    assert same_but_seed(runs[1], []) == [runs[1]]
    made_otherwise = [  # in ways that cannot change a score
        make_record("task=cola", "method=rosa", "seed=3", more, dev=0.5)
        for more in ("cuda_graphs=never", "accumulate=2", "checkpoint_s=5", "save_model=true", "logger=tensorboard")
    ]
    for one in made_otherwise:
        assert same_but_seed(runs[0], [*runs, one]) == [*runs, one]
    assert len(same_but_seed(runs[0], [*runs, *made_otherwise])) == 4
    for change in ("rank=2", "lr=1e-5", "epochs=3", "method.resample_every=1", "protocol=fair", "limit_train=99"):
        other = make_record("task=cola", "method=rosa", "seed=3", change, dev=0.1)
        assert same_but_seed(runs[0], [*runs, other]) == runs, change
    elsewhere = make_record("task=cola", "method=rosa", "seed=3", data={"source": "files", "fingerprint": "other"})
    assert same_but_seed(runs[0], [*runs, elsewhere]) == runs
    seeds = runs
    export = Export("peft", "SEQ_CLS", "FacebookAI/roberta-base", ("exact",))
    text = model_card(runs[0], seeds, export)
    assert "over 3 seeds: mean 0.51, 95 % interval [0.4852, 0.5348] (Student)" in text  # 0.51 -+ 4.303 x 0.01 / sqrt(3)
    assert "one seed" in model_card(runs[0], [runs[0]], export)
    data: Any = ModelCard(text).data
    assert data.base_model == "FacebookAI/roberta-base" and data.datasets == "nyu-mll/glue"
    assert data.license == "mit" and data.library_name == "peft"
    [result] = data.eval_results or []
    assert (result.dataset_type, result.dataset_config, result.metric_value) == ("nyu-mll/glue", "cola", 0.5)


def test_an_undefined_score_is_said_so_and_is_no_result(make_record: Callable[..., RunRecord]) -> None:
    from rosa_bench.report.writers.card import Export, model_card

    run, other = (
        make_record("task=cola", f"seed={seed}", dev=dev, data={"official": True})
        for seed, dev in ((0, None), (1, 0.5))
    )
    for seeds in ([run], [run, other]):
        text = model_card(run, seeds, Export("peft", "SEQ_CLS", None, ()))
        assert "| matthews_correlation | undefined | undefined |" in text
        assert "No interval: a score is undefined." in text
        assert "nan" not in text.lower()
        data: Any = ModelCard(text).data
        assert not data.eval_results
    assert eval_entries(other)
    assert not eval_entries(run)


def test_results_for_the_hub_are_of_the_published_rows_alone(make_record: Callable[..., RunRecord]) -> None:
    [entry] = eval_entries(make_record("task=cola", "method=rosa", data={"official": True}))
    dataset = entry["dataset"]
    known = EvalResultEntry(dataset_id=dataset["id"], task_id=dataset["task_id"], value=entry["value"])
    assert (known.dataset_id, known.task_id, known.value) == ("nyu-mll/glue", "cola", 0.5)
    assert not eval_entries(make_record("task=cola", "method=rosa", data={"official": False}))
    assert not eval_entries(make_record("task=cola", "method=rosa", data={"official": True, "subset": True}))
    assert not eval_entries(make_record("task=grammar", "model=tiny_roberta", data={"official": True}))
