"""Block-wise training: which blocks train at each step, and that nothing else does."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.structure.blocks import transformer_blocks
from rosa_bench.methods.base import RunLength
from rosa_bench.methods.blockwise import ORDERS, Blockwise
from rosa_bench.system.errors import UserError
from rosa_bench.training.state import Recipe, Training

Compose = Callable[..., RunConfig]
LENGTH = RunLength(10, 10)


@pytest.fixture
def method(compose: Compose) -> Callable[..., Blockwise]:
    """Make a block-wise method: ``method(blocks=1)``."""

    def make(**changes: Any) -> Blockwise:
        chosen = compose("task=grammar", "model=tiny_roberta", "method=blockwise").method
        assert isinstance(chosen, Blockwise)
        return replace(chosen, **changes)

    return make


def turns(method: Blockwise, count: int, number: int) -> list[list[int]]:
    return [method.chosen(turn * method.every, count) for turn in range(number)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_blocks_stay_chosen_until_the_next_choice_is_due(
    method: Callable[..., Blockwise], order: str, blocks: int
) -> None:
    chosen = method(order=order, blocks=blocks, every=5)
    for step in range(1, 40):
        same = chosen.chosen(step, 12) == chosen.chosen(step - 1, 12)
        assert chosen.is_due(step, LENGTH) == (step % 5 == 0)
        assert same or chosen.is_due(step, LENGTH)
    assert not chosen.is_due(0, LENGTH)


def test_each_block_takes_its_turn_in_order(method: Callable[..., Blockwise]) -> None:
    assert turns(method(order="ascending", blocks=1), 3, 5) == [[0], [1], [2], [0], [1]]
    assert turns(method(order="descending", blocks=1), 3, 5) == [[2], [1], [0], [2], [1]]
    assert turns(method(order="ascending", blocks=2), 3, 3) == [[0, 1], [2, 0], [1, 2]]


def test_shuffled_visits_every_block_before_repeating_one(method: Callable[..., Blockwise]) -> None:
    chosen = method(order="shuffled", blocks=1)
    rounds = [[block for [block] in turns(chosen, 6, 30)][start : start + 6] for start in range(0, 30, 6)]
    assert all(sorted(one) == list(range(6)) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_random_draws_distinct_blocks_equally_often(method: Callable[..., Blockwise]) -> None:
    drawn = turns(method(order="random", blocks=2), 6, 600)
    assert all(len(set(blocks)) == 2 for blocks in drawn)
    counts = [sum(block in blocks for blocks in drawn) for block in range(6)]
    # Binomial with n = 600 and p = 1/3: mean 200, standard deviation 11.5. Allow five of those.
    assert all(abs(count - 200) < 58 for count in counts)
    assert turns(method(order="random", blocks=2, seed=1), 6, 20) != drawn[:20]


def requiring(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


REST: dict[str, Callable[[str], bool]] = {
    "all": lambda name: not name.startswith("roberta.encoder.layer."),
    "head": lambda name: name.startswith("classifier."),
    "none": lambda _name: False,
}


@pytest.mark.parametrize("rest", REST)
def test_only_the_chosen_blocks_and_the_rest_train(
    method: Callable[..., Blockwise], tiny_model: Callable[..., PreTrainedModel], rest: str
) -> None:
    model, chosen = tiny_model("tiny_roberta"), method(blocks=1, every=1, order="ascending", rest=rest)
    chosen.attach(model)
    stack, trains = "roberta.encoder.layer", REST[rest]
    for step, number in ((0, 0), (1, 1), (2, 0)):
        if step:
            assert chosen.is_due(step, LENGTH)
            changed = chosen.before_step(model, step, length=LENGTH)
            assert changed.retrain and changed.recapture
            started = {id(parameter) for parameter in changed.reset}
            assert started == {id(p) for p in model.get_submodule(f"{stack}.{number}").parameters()}
        block = {f"{stack}.{number}.{name}" for name, _ in model.get_submodule(f"{stack}.{number}").named_parameters()}
        assert requiring(model) == block | {name for name, _ in model.named_parameters() if trains(name)}


def test_all_blocks_may_train_and_one_that_trains_on_keeps_its_moments(
    method: Callable[..., Blockwise], tiny_model: Callable[..., PreTrainedModel]
) -> None:
    model, chosen = tiny_model("tiny_roberta"), method(blocks=2, every=1)
    chosen.attach(model)
    assert chosen.before_step(model, 1, length=LENGTH).reset == []
    assert all(parameter.requires_grad for block in transformer_blocks(model) for parameter in block.parameters())


def test_too_many_blocks_are_refused(
    method: Callable[..., Blockwise], tiny_model: Callable[..., PreTrainedModel]
) -> None:
    with pytest.raises(UserError, match=r"method\.blocks=3 is more than the model's 2"):
        method(blocks=3).attach(tiny_model("tiny_roberta"))


@pytest.mark.parametrize(("name", "stack"), [
    ("tiny_roberta", "roberta.encoder.layer"), ("tiny_bert", "bert.encoder.layer"), ("tiny_gpt2", "transformer.h"),
    ("tiny_llama", "model.layers"),
])  # fmt: skip
def test_the_blocks_of_each_architecture(tiny_model: Callable[..., PreTrainedModel], name: str, stack: str) -> None:
    model = tiny_model(name)
    expected: Any = model.get_submodule(stack)
    assert [id(block) for block in transformer_blocks(model)] == [id(block) for block in expected]


def test_a_model_without_blocks() -> None:
    with pytest.raises(UserError, match="has no stack of blocks"):
        transformer_blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))


def test_a_setting_out_of_range(compose: Compose) -> None:
    wrong = {"blocks=0": "at least 1", "every=0": "at least 1", "order=best": "choose", "rest=body": "choose"}
    for setting, message in wrong.items():
        with pytest.raises(UserError, match=rf"method\.{setting}.*{message}"):
            compose("task=grammar", "model=tiny_roberta", "method=blockwise", f"method.{setting}")


def test_lisa_draws_blocks_and_badam_goes_through_them(compose: Callable[..., RunConfig]) -> None:
    lisa, badam = (compose("task=grammar", "model=tiny_roberta", f"method={name}").method for name in ("lisa", "badam"))
    assert isinstance(lisa, Blockwise) and isinstance(badam, Blockwise)
    assert all(len(blocks) == 2 for blocks in turns(lisa, 12, 40))
    assert len({tuple(blocks) for blocks in turns(lisa, 12, 40)}) > 20
    assert sorted(block for [block] in turns(badam, 12, 12)) == list(range(12))
    assert lisa.rest == "all"


def test_what_always_trains_keeps_its_moments_even_if_the_protocol_clears_all(
    method: Callable[..., Blockwise], tiny_model: Callable[..., PreTrainedModel], compose: Callable[..., RunConfig]
) -> None:
    model, chosen = tiny_model("tiny_roberta"), method(blocks=1, every=2, order="ascending", rest="head")
    chosen.attach(model)
    optimizer = compose("task=grammar", "model=tiny_roberta").optimizer
    recipe = Recipe(lr=1e-2, epochs=1, warmup_steps=0, optimizer=optimizer, accumulate=1, reset="all")
    training = Training(model, chosen, recipe, steps_per_epoch=10, device=torch.device("cpu"))
    model(input_ids=torch.full((2, 5), 7), labels=torch.tensor([0, 1])).loss.backward()
    training.optimizer.step()
    head = [training.optimizer.state[parameter]["exp_avg"] for parameter in chosen.head_parameters(model)]
    before = [each.clone() for each in head]
    training.follow(chosen.before_step(model, 2, length=LENGTH))
    assert all(map(torch.equal, head, before)) and any(each.any() for each in head)
    assert len(training.optimizer.state) == len(head)  # the block's are gone
    # A gradient that stays, even of zeros, would let the optimizer decay a weight that no longer trains.
    assert all(parameter.grad is None for parameter in training.trainable if not parameter.requires_grad)


def test_a_resumed_training_trains_the_same_block(
    method: Callable[..., Blockwise], tiny_model: Callable[..., PreTrainedModel], compose: Callable[..., RunConfig]
) -> None:
    optimizer = compose("task=grammar", "model=tiny_roberta").optimizer
    recipe = Recipe(lr=1e-2, epochs=1, warmup_steps=0, optimizer=optimizer, accumulate=1, reset="factors")

    def begun() -> Training:
        model, chosen = tiny_model("tiny_roberta"), method(blocks=1, every=2, order="ascending", rest="head")
        chosen.attach(model)
        return Training(model, chosen, recipe, steps_per_epoch=10, device=torch.device("cpu"))

    first, second = begun(), begun()
    first.follow(first.method.before_step(first.model, 2, length=LENGTH))
    assert requiring(first.model) != requiring(second.model)
    second.state = first.state
    assert requiring(second.model) == requiring(first.model)
