"""GaLore, Fira, APOLLO and Flora: laws on an encoder and two decoders, and exact resume."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.structure.linear import weight_of
from rosa_bench.layers.weights.projected import projected, random_projectors
from rosa_bench.methods.base import RunLength
from rosa_bench.methods.projected import MOMENTS, ProjectedMethod
from rosa_bench.runs.run import recipe as recipe_of
from rosa_bench.system.errors import UserError
from rosa_bench.training.loop import change
from rosa_bench.training.state import Training

METHODS = ("galore", "fira", "apollo", "flora")
MODELS = ("tiny_roberta", "tiny_gpt2", "tiny_llama")
CPU = torch.device("cpu")


@pytest.fixture
def start(compose: Callable[..., RunConfig], tiny_model: Callable[..., PreTrainedModel]) -> Callable[..., Training]:
    """``start("tiny_gpt2", "galore", moments="reset")``: training to begin, with a projector every 3 steps."""

    def make(model: str, name: str, **changes: Any) -> Training:
        task = "grammar" if model == "tiny_roberta" else "restaurants"
        config = compose(f"task={task}", f"model={model}", f"method={name}", "protocol=paper", "rank=4", "lr=3e-3")
        method = replace(config.method, **{"update_every": 3, **changes})  # pyrefly: ignore[bad-argument-type]
        net: Any = method.attach(tiny_model(model))
        return Training(net, method, recipe_of(config, 10), steps_per_epoch=10, device=CPU)

    return make


def loss(training: Training, step: int) -> Tensor:
    ids = torch.randint(5, 200, (2, 8), generator=torch.Generator().manual_seed(step))
    labels = torch.tensor([0, 1]) if type(training.model).__name__.startswith("Roberta") else ids
    return training.model(input_ids=ids, labels=labels).loss


def advance(training: Training, steps: int) -> None:
    for _ in range(steps):
        coming = partial(loss, training, training.step)
        if training.method.is_due(training.step, training.length):
            change(training, headroom_bytes=None, loss=coming)
        training.set_lr(3e-3)
        coming().backward()
        training.optimizer.step()
        training.optimizer.zero_grad()
        training.step += 1


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_training_ends_bit_for_bit_like_another(start: Any, name: str, model: str) -> None:
    whole, first, second = (start(model, name) for _ in range(3))
    advance(whole, 8)
    advance(first, 5)
    second.state = first.state
    advance(second, 3)
    assert second.state.tensors.keys() == whole.state.tensors.keys()
    assert all(torch.equal(tensor, whole.state.tensors[key]) for key, tensor in second.state.tensors.items())
    assert sum(key.endswith(".projector") for key in whole.state.tensors) == len(list(projected(whole.model)))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", METHODS)
def test_training_lowers_the_loss_and_merging_keeps_the_function(start: Any, name: str, model: str) -> None:
    training = start(model, name)
    before = loss(training, 0).item()
    advance(training, 1)
    after = loss(training, 0)
    assert after.item() < before
    assert training.method.merge(training.model) is True
    assert torch.equal(loss(training, 0), after)
    assert not [name for name, _ in training.model.named_buffers() if name.endswith("projector")]


@pytest.mark.parametrize("model", MODELS)
def test_moments_are_small_and_projectors_lead_the_gradient(start: Any, model: str) -> None:
    training = start(model, "galore")
    weights = [it.weight for it in projected(training.model)]
    expected = torch.autograd.grad(loss(training, 0), weights)
    advance(training, 1)
    for it, gradient in zip(projected(training.model), expected, strict=True):
        tall = gradient.mT if it.transposed else gradient
        leading = torch.linalg.svd(tall.double(), full_matrices=False).Vh[:4].mT
        whole, kept = tall.double() @ leading, tall.double() @ it.projector.double()
        assert kept.norm().item() == pytest.approx(whole.norm().item(), rel=1e-4)
        assert training.optimizer.state[it.weight]["exp_avg"].shape == (tall.shape[0], 4)


def test_a_new_projector_leaves_gradients_as_they_are(start: Any) -> None:
    training = start("tiny_roberta", "galore")
    own = dict(training.model.named_parameters())
    for parameter in own.values():
        parameter.grad = torch.full_like(parameter, 2.0)
    given = {name: parameter.grad for name, parameter in own.items()}
    change(training, headroom_bytes=None, loss=partial(loss, training, 0))
    assert all(parameter.grad is given[name] for name, parameter in own.items())
    assert all(bool((gradient == 2).all()) for gradient in given.values() if gradient is not None)


def test_a_conv1d_is_projected_like_a_linear_layer(start: Any) -> None:
    for module in start("tiny_gpt2", "galore").model.modules():
        if "projector" in dict(module.named_buffers(recurse=False)):
            [it] = list(projected(module))
            rows, columns = weight_of(module).shape
            tall = it.weight.mT if it.transposed else it.weight
            assert tall.shape == (max(rows, columns), min(rows, columns))
            assert rows != columns or torch.equal(tall, weight_of(module))


@pytest.mark.parametrize("moments", MOMENTS)
def test_moments_at_a_new_projector(start: Any, moments: str) -> None:
    training = start("tiny_roberta", "galore", moments=moments)
    advance(training, 3)
    before = {it.weight: it.projector.clone() for it in projected(training.model)}
    averages = {weight: training.optimizer.state[weight]["exp_avg"].clone() for weight in before}
    others = {p: s["exp_avg"].clone() for p, s in training.optimizer.state.items() if p not in before}
    change(training, headroom_bytes=None, loss=partial(loss, training, 3))
    for it in projected(training.model):
        old = averages[it.weight]
        turned = old @ before[it.weight].mT @ it.projector
        expected = {"keep": old, "reset": torch.zeros_like(old), "rotate": turned}[moments]
        torch.testing.assert_close(training.optimizer.state[it.weight]["exp_avg"], expected, rtol=1e-5, atol=1e-6)
    if moments != "reset":  # protocol=paper clears everything at a reset
        assert all(torch.equal(training.optimizer.state[p]["exp_avg"], value) for p, value in others.items())


@pytest.mark.parametrize(("name", "stays"), [("flora", True), ("galore", False)])
def test_a_second_moment_stays_between_random_projectors(start: Any, name: str, stays: bool) -> None:
    training = start("tiny_roberta", name, moments="rotate")
    advance(training, 3)
    weights = [it.weight for it in projected(training.model)]
    before = [training.optimizer.state[weight]["exp_avg_sq"].clone() for weight in weights]
    change(training, headroom_bytes=None, loss=partial(loss, training, 3))
    now = [training.optimizer.state[weight]["exp_avg_sq"] for weight in weights]
    assert all(torch.equal(one, other) is stays for one, other in zip(before, now, strict=True))


def test_a_rank_that_does_not_fit(start: Any) -> None:
    with pytest.raises(UserError, match=r"rank=33 does not fit .*query, a 32 x 32"):
        start("tiny_roberta", "galore", rank=33)


def test_random_projectors_depend_on_seed_and_step_alone(start: Any) -> None:
    method = start("tiny_roberta", "apollo").method
    assert isinstance(method, ProjectedMethod)
    model = start("tiny_roberta", "apollo").model

    def drawn(step: int, seed: int = 0) -> Tensor:
        replace(method, seed=seed).before_step(model, step, length=RunLength(10, 1))
        return next(projected(model)).projector.clone()

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(6))
    assert not torch.equal(drawn(3), drawn(3, seed=1))


def test_random_projectors_keep_a_gradient_on_average(start: Any) -> None:
    model = start("tiny_roberta", "apollo").model
    draws = torch.Generator().manual_seed(0)
    products = [first @ first.mT for first in (random_projectors(model, draws)[0] for _ in range(1000))]
    mean = torch.stack(products).mean(0)
    torch.testing.assert_close(mean, torch.eye(len(mean)), rtol=0, atol=0.15)  # six standard errors
