"""ROSA beyond the laws of every method: it regularly draws a new subspace of the merged weights."""

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rosa_bench import lowrank
from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.low_rank import LowRankLinear, low_rank_layers
from rosa_bench.methods.base import Changed, Method, RunLength
from rosa_bench.methods.rosa import Rosa
from rosa_bench.system.errors import UserError

RANK = 2
LAYERS = 8  # attention layers: two blocks of four
LENGTH = RunLength(3, 10)
Attach = Callable[..., tuple[PreTrainedModel, Any]]


@pytest.fixture
def attach(
    compose: Callable[..., RunConfig], tiny_model: Callable[..., PreTrainedModel], roughened: Callable[..., Any]
) -> Attach:
    """A small RoBERTa in float64 with ``method`` attached and weights so large that a change affects the output."""

    def make(method: str, **changes: Any) -> tuple[PreTrainedModel, Any]:
        chosen = compose("task=grammar", "model=tiny_roberta", f"method={method}", f"rank={RANK}").method
        chosen = replace(chosen, **changes)
        net = roughened(tiny_model("tiny_roberta").double())
        chosen.attach(net)
        return net, chosen

    return make


def batch() -> dict[str, Tensor]:
    ids = torch.randint(5, 261, (4, 10), generator=torch.Generator().manual_seed(2))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1, 1, 0])}


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(**batch()).logits


def train(model: nn.Module, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        model(**batch()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def merged(model: nn.Module) -> list[Tensor]:
    return [layer.merged_weight().detach().clone() for layer in low_rank_layers(model)]


def parts(layer: LowRankLinear) -> tuple[Tensor, Tensor, Tensor]:
    return layer.residual, layer.a, layer.b


def residuals(model: nn.Module) -> list[Tensor]:
    """The residuals: equal if both train the same subspaces."""
    return [layer.residual for layer in low_rank_layers(model)]


def products(model: nn.Module) -> Tensor:
    """The products of the factors, which do not depend on the signs of directions."""
    return torch.stack([(layer.a @ layer.b).detach() for layer in low_rank_layers(model)])


@pytest.mark.parametrize("init", ["svd", "zero"])
@pytest.mark.parametrize("select", ["random", "block", "top", "bottom"])
def test_a_resample_keeps_the_function_and_changes_the_subspace(attach: Attach, select: str, init: str) -> None:
    net, method = attach("rosa", select=select, init=init)
    train(net)
    before, subspaces = logits(net), [layer.b.detach().clone() for layer in low_rank_layers(net)]
    method.resample(net, 10)
    torch.testing.assert_close(logits(net), before, rtol=0, atol=1e-9)
    for layer, b in zip(low_rank_layers(net), subspaces, strict=True):
        assert not torch.allclose(layer.b, b, atol=1e-3)
        torch.testing.assert_close(layer.b @ layer.b.mT, torch.eye(RANK).double(), rtol=0, atol=1e-9)
        assert bool(layer.a.any()) == (init == "svd")


def test_a_resample_writes_into_the_same_tensors(attach: Attach) -> None:
    net, method = attach("rosa")
    tensors = [tensor for layer in low_rank_layers(net) for tensor in parts(layer)]
    identities = [(id(tensor), tensor.data_ptr()) for tensor in tensors]
    names = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    train(net)
    changed = method.before_step(net, 5, length=LENGTH)
    replaced = changed.reset
    assert not changed.retrain and not changed.recapture  # the optimizer and captured graphs stay valid
    again = [tensor for layer in low_rank_layers(net) for tensor in parts(layer)]
    assert [(id(tensor), tensor.data_ptr()) for tensor in again] == identities
    assert {name for name, parameter in net.named_parameters() if parameter.requires_grad} == names
    # It returns each factor once, and neither biases nor head, which keep their meaning.
    factors = {id(parameter) for name, parameter in net.named_parameters() if name.endswith((".a", ".b"))}
    assert len(replaced) == len(factors) == 2 * LAYERS
    assert {id(parameter) for parameter in replaced} == factors


@pytest.mark.parametrize("select", ["random", "block"])
@pytest.mark.parametrize("headroom_bytes", [0, 1, 12 * 8 * 32 * 32, 3 * 12 * 8 * 32 * 32, 1 << 30])
def test_memory_headroom_changes_neither_the_function_nor_the_draw(
    attach: Attach, select: str, headroom_bytes: int
) -> None:
    # Weights of several shapes: 8 of 32 x 32, 2 of 64 x 32, 2 of 32 x 64.
    net, method = attach("rosa", select=select, targets=r"query|key|value|dense")
    other, _ = attach("rosa", select=select, targets=r"query|key|value|dense")
    assert len({layer.shape for layer in low_rank_layers(net)}) > 1
    before = logits(net)
    method.resample(net, 7, headroom_bytes=headroom_bytes)
    method.resample(other, 7)
    torch.testing.assert_close(logits(net), before, rtol=0, atol=1e-9)
    torch.testing.assert_close(residuals(net), residuals(other), rtol=0, atol=1e-9)


def test_memory_headroom_limits_how_many_weights_are_factorised_together(
    attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    factorize = lowrank.factorize

    def noting(weight: Tensor, *arguments: Any, **options: Any) -> lowrank.Factors:
        sizes.append(len(weight))
        return factorize(weight, *arguments, **options)

    net, method = attach("rosa")
    monkeypatch.setattr(lowrank, "factorize", noting)
    one = lowrank.WORKSPACE * 8 * 32 * 32  # total bytes for one weight
    for headroom_bytes, expected in [
        (0, [1] * LAYERS),
        (3 * one, [3, 3, 2]),
        (4 * one - 1, [3, 3, 2]),
        (99 * one, [8]),
    ]:
        sizes.clear()
        method.resample(net, 7, headroom_bytes=headroom_bytes)
        assert sizes == expected


def test_a_resample_leaves_no_trace_in_autograd(attach: Attach) -> None:
    net, method = attach("rosa")
    method.resample(net, 5)
    assert all(parameter.is_leaf and parameter.grad is None for parameter in net.parameters())
    assert not any(layer.residual.requires_grad for layer in low_rank_layers(net))


def test_the_other_methods_never_resample(attach: Attach) -> None:
    for name in ("ft", "head_only", "bitfit", "ia3"):
        net, method = attach(name)
        before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
        assert not any(method.is_due(step, LENGTH) for step in range(30))
        assert method.before_step(net, 3, length=LENGTH) == Changed()
        assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


def ranks(net: nn.Module, method: Method, *, resamples: int) -> list[int]:
    """Return the ranks of the layers' updates, with some training steps before and after each resample."""
    original = merged(net)
    for step in range(resamples + 1):
        if step:
            method.before_step(net, step, length=LENGTH)
        train(net)
    updates = [after - before for after, before in zip(merged(net), original, strict=True)]
    # float64 rounds at 1e-15 and AdamW moves by 1e-2 per step; 1e-9 is far from both.
    return [int(torch.linalg.matrix_rank(update, atol=1e-9, rtol=0.0)) for update in updates]


def test_resampling_raises_the_rank_of_the_update(attach: Attach) -> None:
    # LoRA: Proposition 1. ROSA: Figure 5; A' B' - A B has rank 2r at most, and each resample adds as much again.
    assert all(RANK < rank <= 2 * RANK for rank in ranks(*attach("rosa"), resamples=0))
    assert all(2 * RANK < rank <= 4 * RANK for rank in ranks(*attach("rosa"), resamples=1))
    assert all(4 * RANK < rank <= 8 * RANK for rank in ranks(*attach("rosa"), resamples=3))
    assert all(0 < rank <= RANK for rank in ranks(*attach("lora"), resamples=0))
    assert all(3 * RANK < rank <= 4 * RANK for rank in ranks(*attach("lora"), resamples=3))  # ReLoRA: r (k + 1)


@pytest.mark.parametrize(
    ("every", "unit", "steps_per_epoch", "due"),
    [
        (1, "epochs", 5, [5, 10, 15, 20]),
        (2, "epochs", 5, [10, 20]),
        (0.5, "epochs", 4, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]),
        (1.5, "epochs", 4, [6, 12, 18]),
        (0.3, "epochs", 10, [3, 6, 9, 12, 15, 18]),
        (0.001, "epochs", 10, list(range(1, 21))),  # the shortest period is one step
        (7, "steps", 5, [7, 14]),
        (1, "steps", 5, list(range(1, 21))),
        (1, "epochs", 1, list(range(1, 21))),
        (0, "epochs", 5, []),
        (0, "steps", 5, []),
        (100, "epochs", 5, []),
    ],
)
def test_is_due(
    compose: Callable[..., RunConfig], every: float, unit: str, steps_per_epoch: int, due: list[int]
) -> None:
    method = compose("task=grammar", "model=tiny_roberta", "method=rosa").method
    method = replace(method, resample_every=every, resample_unit=unit)  # pyrefly: ignore[unexpected-keyword]
    assert [step for step in range(21) if method.is_due(step, RunLength(steps_per_epoch, 21))] == due


def test_the_paper_resamples_every_two_epochs(compose: Callable[..., RunConfig]) -> None:
    method = compose("task=grammar", "model=tiny_roberta", "method=rosa").method
    assert isinstance(method, Rosa)
    assert (method.select, method.init, method.resample_every, method.resample_unit) == ("random", "svd", 2, "epochs")


def test_svd_add_cannot_be_resampled(compose: Callable[..., RunConfig]) -> None:
    with pytest.raises(UserError, match="svd_add would add to the weights again at every resample"):
        compose("task=grammar", "model=tiny_roberta", "method=rosa", "method.init=svd_add")


@pytest.mark.parametrize(("select", "doubled"), [("top", slice(None, RANK)), ("bottom", slice(-RANK, None))])
def test_svd_add_doubles_the_chosen_singular_values(attach: Attach, select: str, doubled: slice) -> None:
    # Table 4's "SVD init": nothing is subtracted, so W + A B holds the chosen directions twice.
    plain = merged(attach("lora", init="kaiming")[0])  # LoRA starts from W itself
    net, _ = attach("rosa", init="svd_add", resample_every=0.0, select=select)
    for weight, found in zip(plain, merged(net), strict=True):
        left, values, right = torch.linalg.svd(weight)
        values[doubled] *= 2
        torch.testing.assert_close(found, left * values @ right, rtol=0, atol=1e-9)


def test_top_trains_the_best_approximation(attach: Attach) -> None:
    plain = merged(attach("lora", init="kaiming")[0])
    net, _ = attach("rosa", select="top")
    for weight, found in zip(plain, products(net), strict=True):
        left, values, right = torch.linalg.svd(weight)
        best = left[:, :RANK] * values[:RANK] @ right[:RANK]  # Eckart-Young
        torch.testing.assert_close(found, best, rtol=0, atol=1e-9)


def test_a_draw_depends_only_on_seed_and_step(attach: Attach) -> None:
    straight, method = attach("rosa")
    method.resample(straight, 10)
    # The same step with another global state and after other draws, as in a resumed run.
    roundabout, method = attach("rosa")
    torch.manual_seed(99)
    for step in (3, 7, 10):
        method.resample(roundabout, step)
    torch.testing.assert_close(products(roundabout), products(straight), rtol=0, atol=1e-9)

    state = torch.get_rng_state()
    method.resample(roundabout, 11)
    assert torch.equal(torch.get_rng_state(), state)  # so dropout is not affected either


def test_steps_and_seeds_draw_differently(attach: Attach) -> None:
    def drawn(seed: int, step: int) -> Tensor:
        net, method = attach("rosa", seed=seed)
        method.resample(net, step)
        return products(net)

    found = [drawn(0, 1), drawn(0, 2), drawn(1, 1), drawn(1, 2)]
    assert not any(torch.allclose(one, other, atol=1e-3) for one, other in pairwise(found))
    assert not torch.allclose(found[0], found[2], atol=1e-3)


def test_each_layer_draws_for_itself(attach: Attach) -> None:
    net, method = attach("rosa")
    layers = low_rank_layers(net)
    weight = layers[0].merged_weight().detach().clone()
    for layer in layers:  # the same weight in all, so only the draw can differ afterwards
        layer.residual.copy_(weight)
        layer.a.data.zero_()
    method.resample(net, 1)
    first, *others = products(net)
    assert not any(torch.allclose(other, first, atol=1e-3) for other in others)


def test_full_rank_logs_a_warning(attach: Attach, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="rosa_bench"):
        attach("rosa", rank=31)
        assert not caplog.records
        attach("rosa", rank=32)
    (record,) = caplog.records
    assert f"rank 32 is the full rank of {LAYERS} of the {LAYERS} adapted weights (32 x 32)" in record.getMessage()
