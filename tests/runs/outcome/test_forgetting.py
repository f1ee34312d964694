"""Forgetting: the loss on another task's text, of the same model before training and after it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from rosa_bench.config.schema import RunConfig
from rosa_bench.records.parts.measured import Forgetting
from rosa_bench.records.record import RunRecord, from_values, to_values
from rosa_bench.records.store import load_record, save_record
from rosa_bench.runs.planning.plan import plan
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import run
from rosa_bench.runs.status import status_of
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.generation.prompts import load_prompts
from rosa_bench.tasks.generation.task import GenerationTask
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Training

MakeSetup = Callable[..., ResolvedRun]

TINY = (
    "task=new_language", "model=tiny_llama", "device=cpu", "epochs=3", "batch_size=8", "max_length=24", "lr=3e-2",
    "task.symbols=6", "task.train_tokens=900", "task.validation_tokens=200", "limit_eval=6",
)  # fmt: skip
ON = "forgetting_on=restaurants"


class Spoil(Observer):
    """Ruins the weights after the first epoch, so that the first epoch is the best."""

    def on_step_start(self, training: Training) -> None:
        if training.step >= training.steps_per_epoch:
            with torch.no_grad():
                for parameter in training.trainable:
                    parameter.mul_(1.5)


@pytest.fixture
def make_setup(compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSetup:
    """``make_setup("method=lora")``: a tiny run with these overrides, resolved in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: resolve(compose(*TINY, *overrides), {})


def untouched(resolved: ResolvedRun) -> nn.Module:
    return resolved.config.task.prepare(resolved.context).model.eval()


@torch.no_grad()
def reference_loss(model: nn.Module, tokenizer: Any, compose: Callable[..., RunConfig], limit: int) -> float:
    """Loss per token of the validation references given their prompts, one at a time, in plain torch."""
    task = compose("task=restaurants", "model=tiny_llama").task
    assert isinstance(task, GenerationTask)
    nats, count = 0.0, 0
    for prompt in load_prompts(task, None, limit_eval=limit).validation:
        for reference in prompt.references:
            start = [tokenizer.bos_token_id] if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else []
            start += tokenizer.encode(prompt.text + task.separator, add_special_tokens=False)
            end = [*tokenizer.encode(f" {reference}", add_special_tokens=False), tokenizer.eos_token_id]
            tokens = torch.tensor([*start, *end])
            logs = functional.log_softmax(model(input_ids=tokens[None]).logits[0].double(), -1)
            nats -= sum(logs[place - 1, tokens[place]].item() for place in range(len(start), len(tokens)))
            count += len(end)
    return nats / count


def outcome(record: RunRecord) -> dict[str, Any]:
    """The results of a run without its times and its forgetting."""
    scores = to_values(record)["scores"]
    scores["epochs"] = [{**epoch, "time_s": 0} for epoch in scores["epochs"]]
    return {"id": record.id, "scores": scores, "deviations": record.deviations, "data": to_values(record)["data"]}


# The losses


@pytest.mark.parametrize("protocol", ["paper", "fair"])
def test_before_is_the_untouched_models_loss_and_after_the_saved_models(
    make_setup: MakeSetup, compose: Callable[..., RunConfig], protocol: str
) -> None:
    resolved = make_setup(ON, "method=lora", f"protocol={protocol}", "save_model=true")
    record = run(resolved)
    assert load_record(resolved.record_path) == record
    found = record.forgetting
    assert found is not None
    assert found.task == "restaurants"
    tokenizer = AutoTokenizer.from_pretrained(resolved.saved_model)
    assert found.before == pytest.approx(reference_loss(untouched(resolved), tokenizer, compose, 6), rel=1e-5)
    saved = AutoModelForCausalLM.from_pretrained(resolved.saved_model)
    assert found.selected == pytest.approx(reference_loss(saved, tokenizer, compose, 6), rel=1e-5)
    assert found.selected != pytest.approx(found.before, rel=1e-4)
    assert found.rise == found.selected - found.before


@pytest.mark.parametrize("protocol", ["paper", "fair"])
def test_the_selected_and_the_last_epoch_are_measured_apart(make_setup: MakeSetup, protocol: str) -> None:
    settings = (ON, "method=ft", "optimizer.schedule=constant", "optimizer.warmup_steps=1", f"protocol={protocol}")
    record = run(make_setup(*settings), [Spoil()])
    assert record.selected.epoch == 1
    assert record.forgetting is not None
    one = run(make_setup(*settings, "epochs=1"))
    assert one.forgetting is not None
    assert one.forgetting.selected == one.forgetting.last == record.forgetting.selected != record.forgetting.last


def test_forgetting_on_the_own_task_is_the_own_score(compose: Callable[..., RunConfig], tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("\n\n".join(f"Text {number} of some." for number in range(40)))
    (tmp_path / "validation.txt").write_text("Some other text.")
    folders = (f"{key}='{tmp_path}'" for key in ("data_dir", "results_dir", "output_dir"))
    tiny = ("task=text", "model=tiny_llama", "device=cpu", "epochs=2", "protocol=fair", "method=ft")
    record = run(resolve(compose(*tiny, *folders, "forgetting_on=text"), {}), [Spoil()])
    assert record.forgetting is not None
    assert record.forgetting.selected == record.selected["loss"]
    assert record.forgetting.last == record.last["loss"]
    assert record.forgetting.selected != record.forgetting.last


@pytest.mark.slow
def test_forgetting_of_a_phone_book_is_its_loss_per_digit(
    make_setup: MakeSetup, compose: Callable[..., RunConfig]
) -> None:
    found = run(make_setup("forgetting_on=phonebook", "epochs=1", "limit_eval=null")).forgetting
    own = resolve(compose("task=phonebook", "model=tiny_llama", "device=cpu"), {})
    book = own.config.task.prepare(own.context)  # the same model: the seed is the same
    assert found is not None
    assert found.before == pytest.approx(book.select(book.model).scores["loss"], rel=1e-6)
    few = run(make_setup("forgetting_on=phonebook", "epochs=1")).forgetting
    assert few is not None
    assert few.before != found.before  # limit_eval counts pairs


@pytest.mark.parametrize("name", ["restaurants", "new_language"])
def test_the_length_of_the_text_is_not_the_runs(make_setup: MakeSetup, name: str) -> None:
    found = [run(make_setup(f"forgetting_on={name}", "epochs=1", f"max_length={length}")) for length in (24, 32)]
    before = [record.forgetting.before for record in found if record.forgetting]
    assert before[0] == before[1]


# What it must not change


@pytest.mark.parametrize("method", ["rosa", "ft"])
def test_it_changes_nothing_else(make_setup: MakeSetup, method: str) -> None:
    every = ["method.resample_every=1"] if method == "rosa" else []
    settings = (f"method={method}", *every, "protocol=fair", "save_model=true")
    plain = run(make_setup(*settings, "results_dir=plain", "output_dir=plain"))
    measured = run(make_setup(*settings, ON))
    assert plain.forgetting is None
    assert measured.forgetting is not None
    assert outcome(measured) == outcome(plain)
    files = [sorted(Path(folder, plain.id, "model").glob("*.safetensors")) for folder in ("plain", "outputs")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_a_resumed_run_has_the_same_losses(make_setup: MakeSetup, at_step: Any) -> None:
    settings = ("method=rosa", "method.resample_every=1", "protocol=paper", "checkpoint_s=0", ON)
    alone = run(make_setup(*settings, "results_dir=alone", "output_dir=alone"))

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make_setup(*settings), [at_step(8, interrupt)])
    assert load_record(make_setup(*settings).record_path).forgetting is None
    resumed = run(make_setup(*settings))
    assert resumed.forgetting == alone.forgetting
    assert outcome(resumed) == outcome(alone)


def test_a_run_that_began_without_it_and_kept_no_weights_says_so(make_setup: MakeSetup, at_step: Any) -> None:
    settings = ("method=lora", "protocol=paper", "checkpoint_s=0")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make_setup(*settings), [at_step(8, interrupt)])
    with pytest.raises(
        UserError, match="without save_model, save_adapter and forgetting_on; resume with these settings"
    ):
        run(make_setup(*settings, ON))


# Records and status


def test_a_completed_run_without_it_is_run_again(make_setup: MakeSetup, make_record: Callable[..., RunRecord]) -> None:
    plain, wanted, other = make_setup(), make_setup(ON), make_setup("forgetting_on=new_language")
    assert plain.id == wanted.id == other.id
    record = make_record("task=restaurants", "model=tiny_llama", id=plain.id)
    save_record(record, plain.results_dir)
    Path(plain.record_path).parent.mkdir(parents=True, exist_ok=True)
    plain.record_path.write_text(json.dumps(to_values(record)))
    assert [status_of(one).kind for one in (plain, wanted, other)] == ["completed", "new", "new"]
    measured = {**to_values(record), "forgetting": {"task": "restaurants", "before": 1.0, "selected": 2.0, "last": 3.0}}
    plain.record_path.write_text(json.dumps(measured))
    assert [status_of(one).kind for one in (plain, wanted, other)] == ["completed", "completed", "new"]


def test_old_records_have_none_and_undefined_losses_are_read(make_record: Callable[..., RunRecord]) -> None:
    values = to_values(make_record("task=cola"))
    del values["forgetting"]
    assert from_values(values).forgetting is None
    values["forgetting"] = {"task": "text", "before": 2.5, "selected": None, "last": 1e200}
    assert from_values(values).forgetting == Forgetting(task="text", before=2.5, selected=None, last=None)
    for wrong in ({"task": "../x", "before": 1, "selected": 1, "last": 1}, {"task": "text"}, [], 3):
        with pytest.raises(ValueError, match="forgetting"):
            from_values({**values, "forgetting": wrong})


# Mistakes


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("task=grammar", "model=tiny_bert", ON), "forgetting_on=restaurants is for models that continue a text"),
        (("task=restaurants", "model=tiny_llama", "forgetting_on=grammar"), "grammar has no text to continue"),
        (("task=restaurants", "model=tiny_llama", "forgetting_on=synthetic"), "synthetic has no text to continue"),
        (("task=synthetic", "model=mlp1", ON), "is for models that continue a text, and model=mlp1 does not"),
        (("task=restaurants", "model=tiny_llama", "forgetting_on=restaurant"), "did you mean restaurants"),
        (("task=restaurants", "model=tiny_llama", "forgetting_on=text"), "set data_dir=FOLDER to a folder that"),
        (("task=restaurants", "model=tiny_llama", "forgetting_on=manpages_de", "data_dir=/"), "no train rows"),
    ],
)
def test_a_task_that_does_not_fit_is_refused_before_any_work(
    compose: Callable[..., RunConfig], overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError) as error:
        resolve(compose(*overrides, "device=cpu"), {})
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_plan_refuses_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = plan(["task=grammar", "model=tiny_bert", "device=cpu", "forgetting_on=null,restaurants"], str)
    assert [job.kind for job in jobs] == ["new", "invalid"]
    assert "forgetting_on=restaurants" in jobs[1].reason
