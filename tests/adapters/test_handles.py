"""Laws of handles: a model has one at a time, merged and detached ones refuse to go on, nothing useless is saved."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rosa_bench import RunLength, attach, load_adapter
from rosa_bench.system.errors import UserError

IDS = torch.arange(5, 21).reshape(2, 8)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(model: nn.Module, expected: dict[str, Tensor]) -> bool:
    found = model.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("first", ["bitfit", "lora"])
@pytest.mark.parametrize("second", ["bitfit", "lora", "ft"])
def test_a_second_method_waits_for_the_first_to_be_merged(
    tiny_model: Callable[..., Any], first: str, second: str
) -> None:
    model = tiny_model("tiny_roberta")
    begun = attach(model, first)
    with pytest.raises(UserError, match="attached to this model already; merge it first"):
        attach(model, second)
    assert all(parameter.requires_grad for parameter in begun.trainable_parameters)  # the first still trains
    begun.merge()
    attach(model, second)


def test_a_handle_that_nobody_holds_does_not_count(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("tiny_roberta")
    attach(model, "ft")
    attach(model, "lora")


def test_parts_of_a_model_with_parameters_of_their_own_have_handles_of_their_own(
    tiny_model: Callable[..., Any],
) -> None:
    model = tiny_model("tiny_roberta")
    first, second = model.roberta.encoder.layer
    handles = attach(first, "ft"), attach(second, "bitfit")
    assert len(handles[0].trainable_parameters) > len(handles[1].trainable_parameters)
    with pytest.raises(UserError, match="attached to this model already"):
        attach(model, "bitfit")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_of_peft_are_seen_wherever_they_are(tiny_model: Callable[..., Any]) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model("tiny_roberta")
    around: Any = nn.Sequential(get_peft_model(model, LoraConfig(r=2, target_modules=["query"])))
    before = weights(model)
    for part in (around, model, model.roberta, model.roberta.encoder.layer[0]):
        with pytest.raises(UserError, match="an adapter of PEFT is attached to this model already; merge it first"):
            attach(part, "lora", rank=2, targets="all-linear")
    assert same(model, before)
    around[0].merge_and_unload()
    attach(model, "lora", rank=2)


def test_a_merged_handle_has_nothing_to_train(tiny_model: Callable[..., Any]) -> None:
    attached = attach(tiny_model("tiny_roberta"), "lora", rank=2)
    attached.merge()
    for call in (lambda: attached.optimizer(lr=0.1), attached.parameter_groups, attached.state_dict, attached.merge):
        with pytest.raises(UserError, match="merged already"):
            call()
    assert "merged into RobertaForSequenceClassification" in repr(attached)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_neither_saved_nor_merged(
    tiny_model: Callable[..., Any], tmp_path: Path, value: float
) -> None:
    attached = attach(tiny_model("tiny_roberta"), "lora", rank=2)
    attached.save(tmp_path / "adapter")
    good = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    with torch.no_grad():
        attached.trainable_parameters[0][0, 0] = value
    before = weights(attached.model)
    with pytest.raises(UserError, match=r"the adapter contains NaN or Inf in .*query\.a; nothing was written"):
        attached.save(tmp_path / "adapter", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()} == good
    with pytest.raises(UserError, match="contains NaN or Inf"):
        attached.merge()
    assert str(weights(attached.model)) == str(before) and not attached.merged


@pytest.mark.parametrize(("method", "saved", "own", "words"), [
    ("lora", {"alpha": 4}, {"alpha": 32}, "was saved with alpha=4.0, and this method has alpha=32.0"),
    ("ia3", {"side": "input"}, {"side": "output"}, "was saved with side=input, and this method has side=output"),
])  # fmt: skip
def test_an_adapter_of_other_settings_is_refused_although_its_tensors_fit(  # noqa: PLR0917 - pytest names them
    tiny_model: Callable[..., Any], tmp_path: Path, method: str, saved: dict[str, Any], own: dict[str, Any], words: str
) -> None:
    attach(tiny_model("tiny_roberta"), method, **saved).save(tmp_path / "adapter")
    other = attach(tiny_model("tiny_roberta"), method, **own)
    before = weights(other.model)
    with pytest.raises(UserError, match=words):
        other.load(tmp_path / "adapter")
    assert same(other.model, before)
    restored = load_adapter(tiny_model("tiny_roberta"), tmp_path / "adapter").method
    assert all(getattr(restored, key) == value for key, value in saved.items())


@pytest.mark.parametrize(("method", "settings"), [
    ("rosa", {}),
    ("rosa", {"svd_of": "previous"}),
    ("rosa", {"stagger": True}),
    ("rosa", {"init": "zero", "basis": "random"}),
    ("lora", {}),
    ("relora", {}),
    ("switch_lora", {}),
])  # fmt: skip
def test_training_goes_on_from_an_adapter_with_another_period_and_seed(
    tiny_model: Callable[..., Any], tmp_path: Path, method: str, settings: dict[str, Any]
) -> None:
    def made(seed: int, every: int) -> Any:
        period = {"resample_every": every, "resample_unit": "steps"}
        return attach(tiny_model("tiny_roberta"), method, length=RunLength(9, 1), seed=seed, **settings, **period)

    first = made(0, 2)
    optimizer = first.optimizer(lr=1e-2)
    for step in range(5):
        first.before_step(step, optimizer)
        first.model(input_ids=IDS, labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    first.save(tmp_path / "adapter")
    other = made(1, 3)
    other.load(tmp_path / "adapter")
    answers = first.model(input_ids=IDS).logits
    assert torch.equal(other.model(input_ids=IDS).logits, answers)
    optimizer = other.optimizer(lr=1e-2)
    for step in range(5, 9):  # with draws of its own
        other.before_step(step, optimizer)
    torch.testing.assert_close(other.model(input_ids=IDS).logits, answers, rtol=0, atol=1e-5)
    assert [other.is_due(step) for step in range(5, 10)] == [made(1, 3).is_due(step) for step in range(5, 10)]


@pytest.mark.parametrize(("method", "settings"), [
    ("lora_fa", {}), ("vera", {}), ("lora", {"train": "a"}), ("lora", {"init": "uniform"}),
])  # fmt: skip
def test_a_seed_from_which_frozen_tensors_are_drawn_must_be_the_same(
    tiny_model: Callable[..., Any], tmp_path: Path, method: str, settings: dict[str, Any]
) -> None:
    attach(tiny_model("tiny_roberta"), method, seed=0, **settings).save(tmp_path / "adapter")
    with pytest.raises(UserError, match="was saved with seed=0, and this method has seed=1"):
        attach(tiny_model("tiny_roberta"), method, seed=1, **settings).load(tmp_path / "adapter")


def test_an_adapter_of_another_method_is_refused_by_its_name(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    attach(tiny_model("tiny_roberta"), "lora", rank=2).save(tmp_path / "adapter")
    with pytest.raises(UserError, match="was saved with name=lora, and this method has name=lora_plus"):
        attach(tiny_model("tiny_roberta"), "lora_plus", rank=2).load(tmp_path / "adapter")


@pytest.mark.parametrize(("method", "settings"), [("fish_mask", {}), ("eva", {"rank": 2})])
def test_an_adapter_that_starts_from_data_is_loaded_with_data(
    tiny_model: Callable[..., Any], tmp_path: Path, method: str, settings: dict[str, Any]
) -> None:
    batches = [{"input_ids": IDS, "labels": torch.tensor([0, 1])}]
    attached = attach(tiny_model("tiny_roberta"), method, calibration=batches, **settings)
    with torch.no_grad():
        for parameter in attached.trainable_parameters:
            parameter.add_(0.1)
    attached.save(tmp_path / "adapter")
    with pytest.raises(UserError, match="training data"):
        load_adapter(tiny_model("tiny_roberta"), tmp_path / "adapter")
    loaded = load_adapter(tiny_model("tiny_roberta"), tmp_path / "adapter", calibration=batches)
    assert torch.equal(loaded.model(input_ids=IDS).logits, attached.model(input_ids=IDS).logits)


# Detaching


def test_a_base_that_was_not_kept_is_asked_for(tiny_model: Callable[..., Any]) -> None:
    attached = attach(tiny_model("tiny_roberta"), "lora", rank=2)
    before = weights(attached.model)
    with pytest.raises(UserError, match="the model from before is not known; attach with keep_base=True"):
        attached.detach()
    assert same(attached.model, before)


def test_adapters_take_turns_in_one_model(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model, answers = tiny_model("tiny_roberta"), []
    plain = weights(model)
    for number, method in enumerate(("rosa", "bitfit")):
        attached = attach(model, method, keep_base=True)
        with torch.no_grad():
            for parameter in attached.trainable_parameters:
                parameter.add_(0.1)
        answers.append(model(input_ids=IDS).logits.detach())
        attached.save(tmp_path / str(number))
        assert attached.detach() is model and same(model, plain)
        for call in (attached.detach, attached.merge, attached.state_dict, attached.parameter_groups):
            with pytest.raises(UserError, match="detached already; attach it again"):
                call()
        assert "detached from RobertaForSequenceClassification" in repr(attached)
    for number in (1, 0, 1):
        attached = load_adapter(model, tmp_path / str(number), keep_base=True)
        assert torch.equal(model(input_ids=IDS).logits, answers[number])
        attached.detach()
    assert same(model, plain)


def test_what_was_done_to_a_model_since_stays_when_a_method_is_detached(tiny_model: Callable[..., Any]) -> None:
    model, seen = tiny_model("tiny_roberta").eval(), []
    query = model.roberta.encoder.layer[0].attention.self.query
    attached = attach(model, "lora", rank=2, keep_base=True)
    model.roberta.register_forward_hook(lambda *_: seen.append(1))
    model.train().half()
    attached.detach()
    assert model.roberta.encoder.layer[0].attention.self.query is query and query.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model(input_ids=IDS)
    assert seen == [1]


def test_a_replaced_weight_is_kept_once_on_the_cpu(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("tiny_roberta")
    weight = model.roberta.encoder.layer[0].attention.self.query.weight
    kept = attach(model, "rosa", rank=2, keep_base=True).kept
    assert kept is not None
    [copy] = [it for name, it in kept.values.items() if name.endswith("layer.0.attention.self.query.weight")]
    assert weight.data_ptr() == copy.data_ptr()


def test_a_tied_weight_is_tied_again(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("tiny_gpt2")
    attached = attach(model, "rosa", rank=2, targets="lm_head", keep_base=True)
    assert not model.config.tie_word_embeddings
    attached.detach()
    assert model.config.tie_word_embeddings and model.lm_head.weight is model.transformer.wte.weight


def test_a_model_that_another_method_trains_since_a_merge_is_not_detached(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("tiny_roberta")
    plain = weights(model)
    first = attach(model, "lora", rank=2, keep_base=True)
    first.merge()
    second = attach(model, "lora", rank=2, keep_base=True)
    with pytest.raises(UserError, match="another method was attached to this model since; detach or merge that one"):
        first.detach()
    second.detach()
    first.detach()
    assert same(model, plain)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("galore", {"rank": 2, "update_every": 2}),
        ("flora", {"rank": 2, "update_every": 2}),
        ("rosa", {"rank": 2, "resample_every": 2, "resample_unit": "steps", "svd_of": "previous"}),
        ("relora", {"rank": 2, "resample_every": 2, "resample_unit": "steps"}),
        ("switch_lora", {"rank": 2, "resample_every": 2, "resample_unit": "steps"}),
        ("blockwise", {"blocks": 1, "every": 2, "order": "ascending"}),
        ("adalora", {"rank": 2, "every": 2}),
    ],
)
def test_a_loop_of_ones_own_goes_on_from_its_state_to_the_bit(
    tiny_model: Callable[..., Any], method: str, settings: dict[str, Any]
) -> None:
    """The handle's tensors, what is frozen, and the optimizer's state are all that a loop must keep."""

    def begin() -> tuple[Any, torch.optim.Optimizer]:
        model = tiny_model("tiny_gpt2").train()
        attached = attach(model, method, length=RunLength(8, 1), **settings)
        return attached, attached.optimizer(lr=1e-2, fused=True)

    def run(attached: Any, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        for step in range(first, last):
            ids = torch.randint(5, 200, (2, 8), generator=torch.Generator().manual_seed(step))
            torch.manual_seed(step)

            def loss(ids: Tensor = ids) -> Tensor:
                return attached.model(input_ids=ids, labels=ids).loss

            attached.before_step(step, optimizer, loss=loss)
            loss().backward()
            attached.add_penalty()
            attached.after_backward()
            optimizer.step()
            optimizer.zero_grad()

    whole, optimizer = begin()
    run(whole, optimizer, 0, 3)  # draws come before steps 2, 4 and 6
    kept, frozen, moments = copy.deepcopy((whole.state_dict(), whole.frozen, optimizer.state_dict()))
    run(whole, optimizer, 3, 8)
    rest, optimizer = begin()
    rest.load_state_dict(kept)
    rest.freeze(frozen)
    optimizer.load_state_dict(moments)
    run(rest, optimizer, 3, 8)
    expected = whole.state_dict()
    for name, tensor in rest.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
