"""AdaLoRA: the paper's formulas, its schedule, and runs that are interrupted."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.methods.base import Changed, RunLength
from rosa_bench.methods.peft.adalora import OWN, AdaLora, keep_largest
from rosa_bench.methods.peft.tuner import tuned_layers
from rosa_bench.system.errors import UserError
from rosa_bench.training.loop import optimisation
from rosa_bench.training.state import Recipe, Training

Compose = Callable[..., RunConfig]
Tiny = Callable[..., PreTrainedModel]
LENGTH = RunLength(steps_per_epoch=10, epochs=4)


def method_of(compose: Compose, **changes: Any) -> AdaLora:
    chosen = compose("task=grammar", "model=tiny_roberta", "method=adalora", "rank=4", "protocol=fair").method
    assert isinstance(chosen, AdaLora)
    return replace(chosen, **changes)


def batch(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(5, 261, (4, 9), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}


def factors(model: nn.Module) -> list[tuple[Tensor, Tensor, Tensor]]:
    layers: list[Any] = [layer.tuned for _, layer in tuned_layers(model)]
    return [(one.lora_A["default"], one.lora_E["default"], one.lora_B["default"]) for one in layers]


def test_the_schedule_is_the_papers(compose: Compose) -> None:
    method = method_of(compose, warm_up=0.1, final=0.5, every=5)  # T = 40, t_i = 4, T - t_f = 20
    assert [step for step in range(40) if method.is_due(step, LENGTH)] == [5, 10, 15, 20]
    budgets = [method.budget(step, LENGTH, layers=8) for step in (5, 10, 15, 20)]
    assert method.initial_rank == 6
    assert budgets == [32 + int(16 * (1 - (step - 4) / (40 - 20 - 4)) ** 3) for step in (5, 10, 15, 20)]
    assert not any(method.is_due(step, RunLength(1, 1)) for step in range(1))  # a run of one step has no time for it
    assert [step for step in range(40) if replace(method, every=7).is_due(step, LENGTH)] == [7, 14, 20]  # to the end
    assert method.phases(RunLength(15, 1)) == (1, 8)  # fractions of 1.5 and 7.5 steps
    assert replace(method, warm_up=0.29, final=0.29).phases(RunLength(100, 1)) == (29, 71)  # 0.29 * 100 < 29
    assert replace(method, rank=1).initial_rank == 2


def test_the_penalty_is_the_mean_distance_from_orthogonality(compose: Compose, tiny_model: Tiny) -> None:
    method = method_of(compose)
    model = method.attach(tiny_model("tiny_roberta"))
    parts = [torch.linalg.norm(gram - torch.eye(6)) for a, _, b in factors(model) for gram in (a @ a.T, b.T @ b)]
    torch.testing.assert_close(method.penalty(model), 0.1 * sum(parts) / len(parts))
    assert method_of(compose, orthogonality=0.0).penalty(model) is None


def test_importance_follows_the_papers_equations(compose: Compose, tiny_model: Tiny) -> None:
    method = method_of(compose, config={"beta1": 0.8, "beta2": 0.6})
    model = method.attach(tiny_model("tiny_roberta").eval())
    mean = deviation = 0.0
    layer = next(layer for _, layer in tuned_layers(model))
    a: Any = layer.tuned.get_parameter("lora_A.default")
    with torch.no_grad():
        for _, e, _ in factors(model):
            e.fill_(0.3)
    for step in range(3):
        model.zero_grad()
        model(**batch(step)).loss.backward()
        method.after_backward(model)
        importance = (a * a.grad).abs().detach()
        mean = 0.8 * mean + 0.2 * importance  # equation (9)
        deviation = 0.6 * deviation + 0.4 * (importance - mean).abs()  # equation (10)
    # Importance is far below the absolute tolerance that is usual.
    torch.testing.assert_close(layer.get_buffer("mean_lora_A"), mean, rtol=1e-4, atol=0)
    torch.testing.assert_close(layer.get_buffer("deviation_lora_A"), deviation, rtol=1e-4, atol=0)
    assert mean.max() > 0  # pyrefly: ignore[missing-attribute]


def test_values_of_a_layer_that_the_loss_does_not_use_are_removed_first(compose: Compose) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x).square().sum()

    torch.manual_seed(0)
    method = method_of(compose, targets="used|unused", head="(?!)", lm_head=None)
    model = method.attach(Half())
    values = [e for _, e, _ in factors(model)]
    with torch.no_grad():
        for one in values:
            one.fill_(0.3)
    model(torch.randn(4, 8)).backward()
    method.after_backward(model)
    method.before_step(model, method.phases(LENGTH)[1], length=LENGTH)
    assert [int((one != 0).sum()) for one in values] == [6, 2]


def test_an_allocation_that_removes_nothing_keeps_the_optimizers_state(compose: Compose, tiny_model: Tiny) -> None:
    method = method_of(compose, initial=1.0)
    changed = method.before_step(method.attach(tiny_model("tiny_roberta")), method.phases(LENGTH)[1], length=LENGTH)
    assert changed == Changed(clear=[], keep=True, draws=0)


def test_an_allocation_keeps_the_values_with_the_papers_largest_scores(compose: Compose, tiny_model: Tiny) -> None:
    method = method_of(compose, warm_up=0.1, final=0.5)
    model, draws, scores = method.attach(tiny_model("tiny_roberta")), torch.Generator().manual_seed(0), []
    for _, layer in tuned_layers(model):
        layer.tuned.get_parameter("lora_E.default").data.fill_(1)
        parts = {}
        for name in ("A", "E", "B"):
            found = [layer.get_buffer(f"{kind}_lora_{name}") for kind in ("mean", "deviation")]
            parts[name] = torch.prod(torch.stack([it.uniform_(generator=draws) for it in found]), 0)
        scores.append(parts["E"].flatten() + parts["A"].mean(1) + parts["B"].mean(0))  # equation (8)
    method.before_step(model, 10, length=LENGTH)
    least = torch.cat(scores).sort(descending=True).values[method.budget(10, LENGTH, layers=len(scores)) - 1]
    for (_, e, _), score in zip(factors(model), scores, strict=True):
        assert torch.equal(e.flatten() != 0, score >= least)


def test_the_largest_scores_are_kept_over_all_layers() -> None:
    kept = keep_largest([torch.tensor([5.0, 1.0]), torch.tensor([4.0, 3.0, 0.0])], 3)
    assert [mask.tolist() for mask in kept] == [[True, False], [True, True, False]]


def training_of(compose: Compose, tiny_model: Tiny, method: AdaLora) -> tuple[Training, Callable]:
    config = compose("task=grammar", "model=tiny_roberta", "method=adalora", "rank=4", "protocol=paper")
    model = method.attach(tiny_model("tiny_roberta").eval())
    recipe = Recipe(
        lr=1e-2, epochs=4, warmup_steps=0, optimizer=config.optimizer, accumulate=1,
        reset=config.protocol.optimizer_reset,
    )  # fmt: skip
    training = Training(model, method, recipe, steps_per_epoch=10, device=torch.device("cpu"))
    from contextlib import nullcontext

    return training, optimisation(training, nullcontext)


def steps(training: Training, optimise: Callable, until: int) -> None:
    while training.step < until:
        if training.method.is_due(training.step, training.length):
            training.follow(training.method.before_step(training.model, training.step, length=training.length))
        training.set_lr(1e-2)
        loss = optimise(batch(training.step))
        training.losses[training.step % 10] = loss
        training.step += 1


def test_a_resumed_run_ends_the_same_with_the_rank_it_promised(compose: Compose, tiny_model: Tiny) -> None:
    method = method_of(compose, every=5)
    whole, optimise = training_of(compose, tiny_model, method)
    kept = []
    for until in (12, 17, 23):  # between allocations, and after the last
        steps(whole, optimise, until)
        state = whole.state
        kept.append((until, state._replace(tensors={key: tensor.clone() for key, tensor in state.tensors.items()})))
    steps(whole, optimise, 30)
    ends = {name: tensor.clone() for name, tensor in whole.model.state_dict().items()}
    for until, state in kept:
        resumed, again = training_of(compose, tiny_model, method)
        resumed.state = state
        assert resumed.step == until
        steps(resumed, again, 30)
        for name, tensor in resumed.model.state_dict().items():
            assert torch.equal(tensor, ends[name]), name
    found = [int((e != 0).sum()) for _, e, _ in factors(whole.model)]
    assert sum(found) == 4 * len(found)
    assert len(set(found)) > 1  # shared out unevenly
    assert whole.resamples == 0


def test_an_allocation_keeps_the_optimizers_state_under_every_protocol(compose: Compose, tiny_model: Tiny) -> None:
    training, optimise = training_of(compose, tiny_model, method_of(compose, every=5))
    assert training.recipe.reset == "all"
    steps(training, optimise, 5)
    a = factors(training.model)[0][0]
    before = training.optimizer.state[a]["exp_avg"].clone()
    training.follow(training.method.before_step(training.model, 5, length=training.length))
    assert torch.equal(training.optimizer.state[a]["exp_avg"], before)
    assert before.any()


def test_the_reported_loss_leaves_out_the_penalty(compose: Compose, tiny_model: Tiny) -> None:
    training, optimise = training_of(compose, tiny_model, method_of(compose, orthogonality=1000.0))
    expected = training.model(**batch(0)).loss.item()
    assert optimise(batch(0)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"tinit": 3}}, r"config\.tinit is not for method=adalora"),
        ({"warm_up": 0.5, "final": 0.5}, "must be below 1"),
    ],
)
def test_settings_that_are_refused(compose: Compose, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        method_of(compose, **changes)


OF_PEFT = {
    "target_r": 4,
    "init_r": 6,
    "deltaT": 5,
    "tinit": 100,
    "tfinal": 500,
    "total_step": 1000,
    "orth_reg_weight": 0.1,
}


def by_type(compose: Compose, **config: Any) -> Any:
    method: Any = compose("task=grammar", "model=tiny_roberta", "method=peft", "protocol=fair").method
    return replace(method, peft_type="ADALORA", config={"lora_alpha": 4, **config})


def test_pefts_own_settings_make_the_same_run(compose: Compose, tiny_model: Tiny) -> None:
    """Every hook is used: the penalty, the importance, the allocations, and what they remove for good."""
    ends = []
    for method in (method_of(compose, every=5, config={"lora_alpha": 4}), by_type(compose, **OF_PEFT)):
        training, optimise = training_of(compose, tiny_model, method)
        steps(training, optimise, 30)
        ends.append({name: tensor.clone() for name, tensor in training.model.state_dict().items()})
    assert ends[0].keys() == ends[1].keys()
    assert not [name for name, tensor in ends[0].items() if not torch.equal(tensor, ends[1][name])]


def test_other_settings_reach_pefts_layers(compose: Compose, tiny_model: Tiny) -> None:
    model = method_of(compose, config={"lora_alpha": 7}).attach(tiny_model("tiny_roberta"))
    layers: list[Any] = [layer.tuned for _, layer in tuned_layers(model)]
    assert {one.scaling["default"] for one in layers} == {7}  # PEFT divides by the rank later


def test_settings_that_are_not_given_are_pefts() -> None:
    theirs = AdaLoraConfig(total_step=1)
    assert {key: getattr(theirs, key) for key in OWN} == OWN


def test_the_rank_at_the_start_is_that_of_pefts_settings(compose: Compose) -> None:
    assert by_type(compose, **OF_PEFT).inner.initial_rank == 6
    assert by_type(compose, **{**OF_PEFT, "init_r": 4}).inner.initial_rank == 4


def test_pefts_own_settings_may_come_from_a_file(compose: Compose, tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "ADALORA", "lora_alpha": 4, **OF_PEFT}))
    filed = replace(by_type(compose), config={}, adapter_config=str(path), targets="peft")
    assert filed.inner == replace(by_type(compose, **OF_PEFT), targets="peft").inner


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_step": None}, "total_step=1 leaves nothing after the 600 of tinit and tfinal; set it higher"),
        ({"tfinal": 900}, "total_step=1000 leaves nothing after the 1000"),
        ({"target_r": 0}, "target_r=0 is out of range"),
        ({"init_r": 3}, "init_r=3 is below target_r=4.*set init_r to target_r or more"),
        ({"deltaT": "x"}, "deltaT=x is out of range"),
        ({"orth_reg_weight": float("nan")}, "out of range"),
    ],
)
def test_pefts_own_settings_that_are_refused(compose: Compose, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        by_type(compose, **{**OF_PEFT, **changes})
