"""Laws of RosaCallback in Hugging Face's Trainer: draws when due, exact resumes, and refused checkpoints."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rosa_bench
from rosa_bench import Attached, RunLength
from rosa_bench.layers.low_rank import low_rank_layers
from rosa_bench.system.errors import UserError

pytest.importorskip("accelerate")

from transformers import Trainer, TrainerCallback, TrainingArguments

from rosa_bench.integrations.trainer import RosaCallback, length_of

STEPS = 9  # 24 rows in batches of 4, two batches a step, 3 epochs


class Watch(TrainerCallback):
    """Notes the learning rate of each optimizer step and the factors before it, and may stop after a step."""

    def __init__(self, stop_after: int | None = None):
        self.stop_after, self.rates, self.factors = stop_after, list[float](), list[Tensor]()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append(float(kwargs["optimizer"].param_groups[0]["lr"]))
        if layers := low_rank_layers(kwargs["model"]):
            self.factors.append(layers[0].b.detach().clone())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.stop_after:
            control.should_save = control.should_training_stop = True


def rows() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(3, 200, (8,), generator=generator), "labels": index % 2} for index in range(24)]


def trainer_of(attached: Attached, folder: Path, *callbacks: TrainerCallback, **options: Any) -> Trainer:
    optimizers = options.pop("optimizers", (None, None))
    settings = {
        "num_train_epochs": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2, "max_grad_norm": 0.5, "warmup_steps": 2, "save_strategy": "no", "report_to": [],
        "use_cpu": True, "disable_tqdm": True, "logging_strategy": "no",
    }  # fmt: skip
    arguments = TrainingArguments(str(folder), **{**settings, **options})  # pyrefly: ignore[bad-argument-type]
    data: Any = rows()
    return Trainer(
        model=attached.model, args=arguments, train_dataset=data, optimizers=optimizers,
        callbacks=[RosaCallback(attached), *callbacks],
    )  # fmt: skip


@pytest.fixture
def attach(tiny_model: Callable[..., Any]) -> Callable[..., Attached]:
    """``attach("rosa", rank=4)``: the method on the same tiny encoder, with dropout."""
    return lambda method, **settings: rosa_bench.attach(tiny_model("tiny_roberta"), method, **settings)


def assert_same(found: Trainer, expected: Trainer, *, ours: Attached, theirs: Attached) -> None:
    """Compare models and optimizers, to the bit."""
    left, right = ours.state_dict(), theirs.state_dict()
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in right)
    assert ours.frozen == theirs.frozen
    names = [name for name, _ in ours.model.named_parameters()]
    states = [
        {
            name: trainer.optimizer.optimizer.state.get(it, {})  # pyrefly: ignore[missing-attribute]
            for name, it in attached.model.named_parameters()
        }
        for trainer, attached in ((found, ours), (expected, theirs))
    ]
    for name in names:
        assert states[0][name].keys() == states[1][name].keys(), name
        assert all(torch.equal(value, states[1][name][key]) for key, value in states[0][name].items()), name


VARIANTS = {
    "rosa": {"rank": 4, "resample_every": 3, "resample_unit": "steps", "rewarm_steps": 2},
    "rosa, one at a time": {"rank": 2, "resample_every": 4, "resample_unit": "steps", "stagger": True},
    "rosa, rotated": {"rank": 4, "resample_every": 1, "train": "a", "moments": "rotate"},
    "relora": {"rank": 4, "resample_every": 0.4, "resample_unit": "run"},
    "blockwise": {"blocks": 1, "every": 3, "order": "ascending"},
}


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[pytest.mark.slow] if name != "rosa" else []) for name in VARIANTS]
)
def test_a_resumed_training_ends_bit_for_bit_like_an_uninterrupted_one(
    attach: Callable[..., Attached], tmp_path: Path, variant: str
) -> None:
    def begin(folder: str, *callbacks: TrainerCallback) -> tuple[Attached, Trainer]:
        attached = attach(variant.partition(",")[0], **VARIANTS[variant])
        own = attached.optimizer(lr=1e-2) if attached.method.takes_turns else None
        return attached, trainer_of(attached, tmp_path / folder, *callbacks, optimizers=(own, None))

    whole, expected = begin("whole")
    expected.train()
    _, stopped = begin("parts", Watch(stop_after=5))  # in the middle of the second epoch
    stopped.train()
    assert stopped.state.global_step == 5
    rest, found = begin("parts")
    found.train(resume_from_checkpoint=str(tmp_path / "parts/checkpoint-5"))
    assert found.state.global_step == STEPS
    assert_same(found, expected, ours=rest, theirs=whole)


@pytest.mark.parametrize("method", ["dora", "vera"])
def test_layers_of_peft_are_saved_and_resumed(attach: Callable[..., Attached], tmp_path: Path, method: str) -> None:
    whole = attach(method)
    expected = trainer_of(whole, tmp_path / "run", save_strategy="steps", save_steps=5, num_train_epochs=2)
    expected.train()
    rest = attach(method)
    found = trainer_of(rest, tmp_path / "run", num_train_epochs=2)
    found.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-5"))
    assert_same(found, expected, ours=rest, theirs=whole)


def test_a_callback_that_is_added_late_does_the_same(attach: Callable[..., Attached], tmp_path: Path) -> None:
    def trained(*, late: bool) -> Attached:
        attached = attach("galore", rank=2)  # asks for the gradient of the coming batch
        optimizers = (attached.optimizer(lr=1e-2), None)
        trainer = trainer_of(attached, tmp_path, num_train_epochs=1, optimizers=optimizers)
        if late:
            trainer.remove_callback(RosaCallback)
            trainer.model._forward_pre_hooks.clear()  # pyrefly: ignore[missing-attribute]
            trainer.add_callback(RosaCallback(attached))
        trainer.train()
        return attached

    late, early = trained(late=True).state_dict(), trained(late=False).state_dict()
    assert late.keys() == early.keys() and all(torch.equal(late[name], early[name]) for name in early)
    with pytest.raises(UserError, match="this RosaCallback is of another model"):
        trainer = trainer_of(attach("lora"), tmp_path)
        trainer.add_callback(RosaCallback(attach("lora")))
        trainer.train()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["flora", "galore"])  # galore asks for the gradient of the coming batch
def test_an_optimizer_of_the_methods_own_resumes_too(
    attach: Callable[..., Attached], tmp_path: Path, method: str
) -> None:
    def begin(folder: str, *callbacks: TrainerCallback) -> tuple[Attached, Trainer]:
        attached = attach(method, rank=4, update_every=2)
        optimizers = (attached.optimizer(lr=1e-2, weight_decay=0.0), None)
        return attached, trainer_of(attached, tmp_path / folder, *callbacks, optimizers=optimizers)

    whole, expected = begin("whole")
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    expected.train()
    moved = [name for name, tensor in whole.state_dict().items() if not torch.equal(tensor, before[name])]
    assert "roberta.encoder.layer.0.attention.self.query.weight" in moved, "the optimizer uses the model's projectors"
    begin("parts", Watch(stop_after=5))[1].train()
    rest, found = begin("parts")
    found.train(resume_from_checkpoint=str(tmp_path / "parts/checkpoint-5"))
    assert_same(found, expected, ours=rest, theirs=whole)


def test_an_optimizer_of_what_trains_first_is_refused_if_other_blocks_train_later(
    attach: Callable[..., Attached], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"blocks": 1, "every": 2, "order": "ascending", "rest": "none"}
    attached = attach("blockwise", **settings)
    first = [parameter for parameter in attached.model.parameters() if parameter.requires_grad]
    with pytest.raises(UserError, match="trains other parameters later"):
        trainer_of(attached, tmp_path).train()  # Trainer makes its optimizer of these
    attached, before = attach("blockwise", **settings), [parameter.detach().clone() for parameter in first]
    first = [parameter for parameter in attached.model.parameters() if parameter.requires_grad]
    with pytest.raises(UserError, match="trains other parameters later"):
        attached.before_step(2, torch.optim.SGD(first))
    assert all(it.requires_grad for it in first), "nothing has changed"
    trainer_of(attached, tmp_path, optimizers=(attached.optimizer(lr=1e-2), None)).train()
    plain = attach("blockwise", **settings).state_dict()
    moved = {name for name, it in attached.state_dict().items() if not torch.equal(it, plain[name])}
    assert before and {name.partition(".layer.")[2][:1] for name in moved} == {"0", "1"}


def test_draws_come_when_due_and_the_rate_rises_again(attach: Callable[..., Attached], tmp_path: Path) -> None:
    attached, watch = attach("rosa", **VARIANTS["rosa"]), Watch()
    given = attached.optimizer(lr=1e-2)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(given)  # which leaves a rate as it finds it
    trainer = trainer_of(attached, tmp_path, watch, optimizers=(given, schedule))
    trainer.train()
    jumps = [(after - before).abs().max() for before, after in zip(watch.factors, watch.factors[1:], strict=False)]
    assert [step for step, jump in enumerate(jumps, 1) if jump > 0.05] == [3, 6]  # a step moves by the rate, 0.01
    third = pytest.approx(1e-2 / 3)
    assert watch.rates == [1e-2, 1e-2, 1e-2, third, pytest.approx(2e-2 / 3), 1e-2, third, pytest.approx(2e-2 / 3), 1e-2]
    optimizer: Any = trainer.optimizer
    assert optimizer.param_groups[0]["lr"] == 1e-2
    assert attached.length == RunLength(3, 3, STEPS)


@pytest.mark.slow
def test_the_same_steps_as_a_loop_of_ones_own(attach: Callable[..., Attached], tmp_path: Path) -> None:
    settings = {"rank": 4, "resample_every": 2, "resample_unit": "steps"}
    theirs = attach("rosa", **settings)
    config: Any = theirs.model.config
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    for module in theirs.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batch = [rows()[0]] * 4  # one batch, so that no order matters
    trainer = trainer_of(theirs, tmp_path, max_steps=5, max_grad_norm=0.0, weight_decay=0.0, warmup_steps=0,
                         gradient_accumulation_steps=1, lr_scheduler_type="constant")  # fmt: skip
    trainer.train_dataset = batch  # pyrefly: ignore[bad-assignment]
    trainer.train()
    ours = attach("rosa", **settings)
    optimizer = ours.optimizer(lr=1e-2, weight_decay=0.0)
    ids, labels = torch.stack([row["input_ids"] for row in batch]), torch.tensor([row["labels"] for row in batch])
    for step in range(5):
        ours.before_step(step, optimizer)
        ours.model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[name], tensor, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_method_sees_the_gradient_of_the_coming_batch(attach: Callable[..., Attached], tmp_path: Path) -> None:
    attached, batch = attach("rosa", rank=2, basis="gradient", init="zero"), [rows()[0]] * 4
    other = attach("rosa", rank=2, basis="gradient", init="zero")
    trainer = trainer_of(attached, tmp_path, max_steps=1, gradient_accumulation_steps=1, learning_rate=0.0)
    trainer.train_dataset = batch  # pyrefly: ignore[bad-assignment]
    trainer.train()
    ids, labels = torch.stack([row["input_ids"] for row in batch]), torch.tensor([row["labels"] for row in batch])
    other.before_step(0, other.optimizer(lr=0.0), loss=lambda: other.model(input_ids=ids, labels=labels).loss)
    for found, expected in zip(low_rank_layers(attached.model), low_rank_layers(other.model), strict=True):
        torch.testing.assert_close(found.b.mT @ found.b, expected.b.mT @ expected.b, rtol=0, atol=1e-4)


@pytest.fixture
def stopped(attach: Callable[..., Attached], tmp_path: Path) -> Path:
    trainer_of(attach("rosa", **VARIANTS["rosa"]), tmp_path, Watch(stop_after=4)).train()
    return tmp_path / "checkpoint-4"


def resume(attached: Attached, checkpoint: Path) -> None:
    with pytest.raises(UserError) as caught:
        trainer_of(attached, checkpoint.parent).train(resume_from_checkpoint=str(checkpoint))
    assert "\n" not in str(caught.value)
    raise caught.value


@pytest.mark.slow
def test_a_checkpoint_that_is_not_of_this_training_is_refused(
    attach: Callable[..., Attached], stopped: Path, tiny_model: Callable[..., Any]
) -> None:
    own = VARIANTS["rosa"]
    with pytest.raises(UserError, match=r"another method: resample_every=3\.0, here 2\.0"):
        resume(attach("rosa", **{**own, "resample_every": 2}), stopped)
    model = tiny_model("tiny_roberta")
    with torch.no_grad():
        model.roberta.embeddings.word_embeddings.weight.add_(1)
    with pytest.raises(UserError, match="begun from another model"):
        resume(rosa_bench.attach(model, "rosa", **own), stopped)
    path = stopped / "trainer_state.json"
    state = json.loads(path.read_text())
    entry = state["stateful_callbacks"].pop("RosaCallback")
    path.write_text(json.dumps(state))
    with pytest.raises(UserError, match="lacks the state of RosaCallback"):
        resume(attach("rosa", **own), stopped)
    entry["attributes"]["digest"] = "0"
    path.write_text(json.dumps(state | {"stateful_callbacks": {"RosaCallback": entry}}))
    with pytest.raises(UserError, match="weights are not those"):
        resume(attach("rosa", **own), stopped)


@pytest.mark.parametrize(("change", "words"), [
    (None, "lacks the state of RosaCallback"),
    ([], "lacks the state of RosaCallback"),
    ({"attributes": None}, "lacks the state of RosaCallback"),
    ({"attributes": {}}, "lacks the state of RosaCallback"),
    ({"method": "rosa"}, "lacks the state of RosaCallback"),
    ({"another": 1}, "lacks the state of RosaCallback"),
    ({"method": {}}, "is of another method: "),
    ({"model": None}, "begun from another model"),
    ({"digest": 0}, "weights are not those that were saved with it"),
    ({"frozen": None}, "frozen must be a list of parameters that train"),
    ({"frozen": "ab"}, "frozen must be a list of parameters that train"),
    ({"frozen": ["classifier.nothing"]}, "frozen must be a list of parameters that train"),
])  # fmt: skip
def test_a_changed_state_of_the_callback_is_refused(
    attach: Callable[..., Attached], tmp_path: Path, change: Any, words: str
) -> None:
    attached = attach("rosa", **VARIANTS["rosa"])
    trainer = trainer_of(attached, tmp_path)
    stored: Any = RosaCallback(attached).state()
    whole = not isinstance(change, dict) or "attributes" in change
    entry = change if whole else {"attributes": {**stored["attributes"], **change}}
    trainer.state.global_step = 1
    for found, refused in ((stored, False), (entry, True)):
        trainer.state.stateful_callbacks = json.loads(json.dumps({"RosaCallback": found}))
        begin = partial(
            RosaCallback(attached).on_train_begin, trainer.args, trainer.state, trainer.control,
            optimizer=attached.optimizer(lr=1e-2), train_dataloader=range(3),
        )  # fmt: skip
        if not refused:
            begin()
            continue
        with pytest.raises(UserError, match=words) as caught:
            begin()
        assert "\n" not in str(caught.value)


def test_a_checkpoint_of_the_plain_model_is_refused(
    attach: Callable[..., Attached], tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, save_steps=1, report_to=[], use_cpu=True, disable_tqdm=True
    )
    Trainer(model=tiny_model("tiny_roberta"), args=arguments, train_dataset=rows()).train()  # pyrefly: ignore[bad-argument-type]
    with pytest.raises(UserError, match=r"this checkpoint has no \S+, so it was saved without method=rosa"):
        resume(attach("rosa", **VARIANTS["rosa"]), tmp_path / "checkpoint-1")


def test_mistakes_are_found_before_training(
    attach: Callable[..., Attached], tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="method=lora_plus has an optimizer or parameter groups of its own"):
        trainer_of(attach("lora_plus", rank=2), tmp_path).train()
    with pytest.raises(UserError, match="this RosaCallback is of another model"):
        arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
        Trainer(tiny_model("tiny_roberta"), arguments, callbacks=[RosaCallback(attach("rosa", rank=2))])
    with pytest.raises(UserError, match="restore_callback_states_from_checkpoint=False"):
        RosaCallback.from_state({})


def test_the_length_of_a_training() -> None:
    class State:
        max_steps = 10

    arguments: Any = type("Arguments", (), {"gradient_accumulation_steps": 2})
    state: Any = State()
    assert length_of(arguments, state, range(7)) == RunLength(4, 3, 10)
    assert length_of(arguments, state, iter([])).total_steps == 10
