"""A pack of runs against each run alone, with `fit`, which knows nothing of packs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rosa_bench.config.groups import names_in
from rosa_bench.config.schema import RunConfig
from rosa_bench.data.batches import Batch
from rosa_bench.layers.low_rank import LowRankLinear, low_rank_layers
from rosa_bench.layers.packs import packed_low_rank
from rosa_bench.layers.packs.by_run import ByRun
from rosa_bench.layers.packs.packed import OneByOne, PackedLinear, PackedScaled, Rows, pack_layers
from rosa_bench.layers.packs.packed_low_rank import PackedLowRank, SharedInputs
from rosa_bench.layers.packs.run_stacks import Stacks
from rosa_bench.layers.scaled import ScaledLinear
from rosa_bench.runs.packing.pack import StandIn
from rosa_bench.runs.run import recipe as recipe_of
from rosa_bench.system.errors import UserError
from rosa_bench.system.resources.meter import Meter
from rosa_bench.training import packed
from rosa_bench.training.loop import fit, steps
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.packed import SharedBatches, fit_together, own_copy
from rosa_bench.training.state import Epoch, Training, TrainingFailedError

CPU = torch.device("cpu")
LRS = (1e-3, 3e-3, 2e-2)
Compose = Callable[..., RunConfig]
TinyModel = Callable[..., PreTrainedModel]


@dataclass
class Texts:
    """Four batches of random tokens, some of them padded. The last batch is smaller."""

    labels: str
    batch_size: int = 4
    examples: int = 15
    seed: None = None
    given: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return 4

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:  # noqa: ARG002 - all are alike
        generator = torch.Generator().manual_seed(7)
        for index in range(len(self)):
            rows = 4 if index < 3 else 3
            ids = torch.randint(5, 60, (rows, 6), generator=generator)
            mask = torch.ones_like(ids)
            mask[0, 4:] = 0
            classes = torch.randint(2, (rows,), generator=generator)
            labels = {"class": classes, "value": classes / 2, "token": ids.masked_fill(mask == 0, -100)}[self.labels]
            if index >= start:
                self.given.append(index)
                yield {"input_ids": ids, "attention_mask": mask, "labels": labels}


@dataclass
class Cell:
    """A task, model and method, to be trained with several learning rates, alone or in a pack."""

    config: RunConfig
    model: PreTrainedModel
    labels: str

    def arguments(self, model: PreTrainedModel, lr: float, observers: Sequence[Observer] = ()) -> dict[str, Any]:
        from dataclasses import replace

        def evaluate() -> dict[str, float]:
            model.eval()
            with torch.inference_mode():
                return {"loss": model(**next(Texts(self.labels).epoch())).loss.item()}

        recipe = recipe_of(replace(self.config, lr=lr), 4)
        return {
            "recipe": recipe, "evaluate": evaluate, "autocast": nullcontext, "meter": Meter(CPU), "observers": observers
        }  # fmt: skip

    def attached(self) -> Any:
        model = packed.own_copy(self.model, self.config.method)  # frozen weights are never written
        return self.config.method.attach(model)

    def alone(self, lr: float) -> tuple[list[Epoch], dict[str, Tensor]]:
        model = self.attached()
        torch.manual_seed(3)
        history = fit(model, self.config.method, Texts(self.labels), **self.arguments(model, lr))  # pyrefly: ignore[bad-argument-type]
        return history, self.config.method.state(model)

    def together(
        self, lrs: Sequence[float], observers: Sequence[Observer] = (), autocast: Callable[[], Any] = nullcontext
    ) -> list[tuple[list[Epoch] | BaseException, dict[str, Tensor]]]:
        first, method, batches = self.attached(), self.config.method, Texts(self.labels)
        models = [first, *(own_copy(first, method) for _ in lrs[1:])]
        shared: Any = batches
        ended: dict[int, list[Epoch] | BaseException] = {}
        torch.manual_seed(3)
        runs = [
            steps(model, method, shared, **self.arguments(model, lr, observers))
            for model, lr in zip(models, lrs, strict=True)
        ]
        fit_together(runs, ended.__setitem__, autocast=autocast)
        return [(ended[number], method.state(model)) for number, model in enumerate(models)]


@pytest.fixture
def cell(compose: Compose, tiny_model: TinyModel) -> Callable[..., Cell]:
    """``cell("tiny_roberta", "method=rosa")``: two epochs of four steps, with a resample before the second."""

    def make(model: str, *overrides: str, labels: str | None = None) -> Cell:
        encoder = model in {"tiny_bert", "tiny_roberta"}
        labels = labels or ("class" if encoder else "token")
        task = "task=grammar" if encoder else "task=restaurants"
        # A larger eps than usual: attention does not depend on the biases of keys, so their gradients are rounding
        # errors alone, which Adam would make as large as any step.
        schedule = ("optimizer.warmup_steps=2", "optimizer.eps=1e-5", "epochs=2", "rank=2")
        config = compose(task, f"model={model}", *overrides, *schedule)
        # In float64, so that no rounding grows to a step: on some processors it did in float32.
        made = tiny_model(model, num_outputs=1 if labels == "value" else 2).double()
        for module in made.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.1  # in attention, too
        return Cell(config, made, labels)

    return make


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], lr: float) -> None:
    """Compare up to a thousandth of the length of one of Adam's steps."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-5, atol=1e-3 * lr, msg=lambda text, name=name: name + text
        )


RESAMPLED = ("method=rosa", "method.resample_every=1")
CELLS = [
    ("tiny_roberta", "class", (*RESAMPLED, "protocol=fair")),
    pytest.param("tiny_roberta", "value", ("method=lora", "protocol=fair"), marks=pytest.mark.long),
    pytest.param("tiny_roberta", "class", (*RESAMPLED, "protocol=paper"), marks=pytest.mark.slow),
    pytest.param("tiny_roberta", "class", (*RESAMPLED, "method.train=a", "protocol=fair"), marks=pytest.mark.slow),
    ("tiny_roberta", "class", ("method=lora", "protocol=paper", "accumulate=2")),
    pytest.param("tiny_roberta", "class", ("method=ia3", "protocol=fair"), marks=pytest.mark.long),
    pytest.param("tiny_roberta", "class", ("method=bitfit", "protocol=fair"), marks=pytest.mark.long),
    pytest.param("tiny_roberta", "class", ("method=head_only",), marks=pytest.mark.slow),
    ("tiny_gpt2", "token", (*RESAMPLED, "protocol=paper", "method.split_qkv=true")),
    pytest.param(
        "tiny_gpt2", "token", ("method=ft",), marks=pytest.mark.long
    ),  # its input and output embeddings are one weight
    pytest.param("tiny_bert", "class", ("method=lora_plus", "protocol=fair"), marks=pytest.mark.long),
    pytest.param("tiny_roberta", "class", ("method=lora_fa", "protocol=fair"), marks=pytest.mark.long),
    pytest.param("tiny_roberta", "class", ("method=relora", "method.resample_every=1"), marks=pytest.mark.long),
    pytest.param("tiny_roberta", "class", ("method=rso", "protocol=fair"), marks=pytest.mark.long),
    ("tiny_llama", "token", ("method=lora", "method.targets=all-linear", "protocol=fair")),
]


@pytest.mark.parametrize(("model", "labels", "overrides"), CELLS, ids=lambda value: str(value)[:70])
def test_each_run_ends_as_it_does_alone(
    cell: Callable[..., Cell], model: str, labels: str, overrides: tuple[str, ...]
) -> None:
    made = cell(model, *overrides, labels=labels)
    found = made.together(LRS)
    losses = set()
    for lr, (history, state) in zip(LRS, found, strict=True):
        expected, wanted = made.alone(lr)
        assert not isinstance(history, BaseException), history
        for one, other in zip(history, expected, strict=True):
            assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)
            assert one.scores == pytest.approx(other.scores, rel=1e-4)
        assert_near(state, wanted, lr)
        losses.add(history[-1].scores["loss"])
    assert len(losses) == len(LRS)  # they differ, so the comparison would notice exchanged runs


@pytest.mark.parametrize("method", ["rosa", "relora"])
def test_a_pack_under_autocast_reads_what_draws_have_written(
    cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """It keeps cast residuals, and casts them again after a draw alone."""
    kept, layers = PackedLowRank.residual_as, set[PackedLowRank]()

    def compared(layer: PackedLowRank, dtype: torch.dtype) -> Tensor:
        found = kept(layer, dtype)
        assert dtype == torch.bfloat16 and torch.equal(found, layer.residual.to(dtype))
        layers.add(layer)
        return found

    monkeypatch.setattr(PackedLowRank, "residual_as", compared)
    every = ("method.resample_unit=steps", "method.resample_every=2")
    made = cell("tiny_roberta", f"method={method}", "protocol=fair", *every)
    found = made.together(LRS, autocast=partial(torch.autocast, "cpu", torch.bfloat16))
    assert all(isinstance(outcome, list) for outcome, _ in found), found
    assert layers


def test_a_run_depends_on_the_size_of_the_pack_and_not_on_its_neighbours(cell: Callable[..., Cell]) -> None:
    made = cell("tiny_roberta", *RESAMPLED, "protocol=fair")
    (history, state), *_ = made.together((1e-3, 3e-3, 2e-2))
    (other, same), *_ = made.together((1e-3, 5e-3, 1e-4))
    assert [epoch.train_loss for epoch in history] == [epoch.train_loss for epoch in other]  # pyrefly: ignore[not-iterable]
    assert all(torch.equal(tensor, same[name]) for name, tensor in state.items())


def test_a_run_that_fails_leaves_the_pack_which_gets_smaller(
    cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, sizes = cell("tiny_roberta", *RESAMPLED, "protocol=fair"), []

    class Watched(packed.Pack):
        def __init__(self, trainings: Sequence[Training], autocast: Any):
            super().__init__(trainings, autocast)
            sizes.append((self.count, trainings[0].step))

    monkeypatch.setattr(packed, "Pack", Watched)
    found = made.together((1e-3, 1e38, 3e-3))
    assert isinstance(found[1][0], TrainingFailedError)
    assert sizes == [(3, 0), (2, 4)]
    for (history, state), lr in ((found[0], 1e-3), (found[2], 3e-3)):
        assert isinstance(history, list) and len(history) == 2
        assert_near(state, made.alone(lr)[1], lr)


class StopAt(Observer):
    """Stops one run after its first epoch."""

    def __init__(self, lr: float):
        self.lr = lr

    def on_epoch_end(self, training: Training, number: int, epoch: Epoch) -> None:  # noqa: ARG002 - a hook point
        if training.recipe.lr == self.lr:
            training.stop("enough")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """``counted(module, name)``: a list that gets, at each call of a function, how many objects its argument has."""

    def count(owner: Any, name: str, *, argument: int = 0) -> list[int]:
        calls, own = [], getattr(owner, name)

        def counting(*given: Any) -> Any:
            calls.append(len(given[argument]))
            return own(*given)

        monkeypatch.setattr(owner, name, counting)
        return calls

    return count


def test_low_rank_layers_with_one_input_are_computed_together(
    cell: Callable[..., Cell], counted: Callable[..., list[int]]
) -> None:
    layers = counted(packed_low_rank, "low_rank_outputs")
    made = cell("tiny_roberta", "method=lora", "protocol=fair")
    made.together((1e-3, 3e-3))
    adapted = len(low_rank_layers(made.attached()))
    assert sum(layers) == adapted * (1 + 2 * 4)  # one more pass than steps, to find out
    assert max(layers[:adapted]) == 1 and max(layers[adapted:]) == 3  # queries, keys and values, once it is known


def test_a_run_that_stops_early_leaves_the_others_alone(
    cell: Callable[..., Cell], counted: Callable[..., list[int]]
) -> None:
    packs = counted(packed.Pack, "__init__", argument=1)
    made = cell("tiny_roberta", "method=lora", "protocol=fair")
    made.together((1e-3, 3e-3))
    assert packs == [2]  # for both epochs
    packs.clear()
    first, second = made.together((1e-3, 3e-3), observers=[StopAt(1e-3)])
    assert packs == [2, 1]
    assert isinstance(first[0], list) and len(first[0]) == 1
    assert isinstance(second[0], list) and len(second[0]) == 2
    assert_near(second[1], made.alone(3e-3)[1], 3e-3)


def test_an_error_of_the_common_pass_ends_all_runs(cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: Any, **_options: Any) -> None:
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setattr(packed, "backward", no_memory)
    found = cell("tiny_roberta", "method=lora", "protocol=fair").together(LRS)
    assert [type(outcome) for outcome, _ in found] == [torch.OutOfMemoryError] * 3


def test_frozen_tensors_are_shared_and_trained_ones_are_not(cell: Callable[..., Cell]) -> None:
    for overrides, residual_is_shared in ((("method=lora",), True), (RESAMPLED, False)):
        made = cell("tiny_roberta", *overrides, "protocol=fair")
        model = made.attached()
        other = own_copy(model, made.config.method)
        mine, theirs = dict(model.named_parameters()), dict(other.named_parameters())
        for name, parameter in mine.items():
            assert (theirs[name] is parameter) == (not parameter.requires_grad), name
        layer = "roberta.encoder.layer.0.attention.self.query"
        shared = other.get_submodule(layer).residual is model.get_submodule(layer).residual
        assert shared == residual_is_shared


@torch.no_grad()
def test_the_model_that_stands_in_computes_what_the_given_one_does(cell: Callable[..., Cell]) -> None:
    made = cell("tiny_roberta", *RESAMPLED, "protocol=fair")
    model, batch = made.attached().eval(), next(Texts(made.labels).epoch())
    stand_in = StandIn(model, made.config.method)
    for _ in range(2):
        other = own_copy(model, made.config.method)
        for tensor in made.config.method.state(other).values():
            if tensor.is_floating_point():
                tensor.normal_()
        assert torch.equal(stand_in(other)(**batch).logits, other(**batch).logits)


def test_a_model_with_another_loss_is_refused(cell: Callable[..., Cell]) -> None:
    made = cell("tiny_roberta", "method=lora", "protocol=fair")

    def other(_model: Any, _inputs: Any, output: Any) -> Any:
        output.loss = output.logits.square().mean()
        return output

    made.model.register_forward_hook(other)
    found = made.together(LRS)
    assert all(isinstance(outcome, UserError) and "packed=1" in str(outcome) for outcome, _ in found)


class Both(nn.Module):
    """A layer with a parameter and another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.inner = nn.Parameter(torch.ones(3)), nn.Linear(3, 3)


def test_a_layer_without_a_packed_form_computes_for_one_run_after_another_unless_it_has_others_inside() -> None:
    runs = [nn.ModuleDict({"x": nn.Embedding(3, 2)}) for _ in range(2)]
    pack_layers(runs[0], runs, Stacks(), Rows())
    assert isinstance(runs[0]["x"], OneByOne)
    runs = [nn.ModuleDict({"x": Both()}) for _ in range(2)]
    with pytest.raises(UserError, match=r"x, a Both, cannot be packed; use packed=1"):
        pack_layers(runs[0], runs, Stacks(), Rows())


@pytest.mark.parametrize("layer", [partial(LowRankLinear, rank=2), partial(ScaledLinear, side="output")])
def test_packing_merges_no_layer(layer: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter computes its ``weight`` whenever it is read."""
    runs = [nn.Sequential(layer(nn.Linear(6, 4))) for _ in range(2)]
    monkeypatch.setattr(type(runs[0][0]), "merged_weight", lambda _: pytest.fail("merges"))
    pack_layers(runs[0], runs, Stacks(), Rows())
    assert isinstance(runs[0][0], PackedLowRank | PackedScaled)


def test_a_residual_is_cast_to_the_type_of_each_pass() -> None:
    """What was cast to bfloat16 has too few digits for float16."""
    layer = PackedLowRank([LowRankLinear(nn.Linear(6, 8), 2) for _ in range(2)], Stacks())
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert torch.equal(layer.residual_as(dtype), layer.residual.to(dtype))


def rows_in_all(count: int) -> Rows:
    rows = Rows()
    rows.total = count
    return rows


def test_positions_that_all_rows_share_get_each_runs_own_embedding() -> None:
    layers = [nn.Embedding(7, 4) for _ in range(3)]
    found = OneByOne(layers, rows_in_all(6))(torch.tensor([[2, 0, 5]]))
    assert torch.equal(found, torch.cat([it.weight[[2, 0, 5]].expand(2, -1, -1) for it in layers]))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_a_pack_drops_the_entries_that_each_run_drops_alone(p: float) -> None:
    x = torch.randn(2, 50, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    alone = nn.functional.dropout(x, p)
    then = torch.rand(3)
    torch.manual_seed(0)
    with ByRun(3):
        found = nn.functional.dropout(x.repeat(3, 1), p)
    torch.testing.assert_close(found, alone.repeat(3, 1))
    assert torch.equal(torch.rand(3), then)


@pytest.mark.parametrize(("packed_layer", "make"), [
    (PackedScaled, lambda plain: ScaledLinear(plain, side="input")),
    (PackedScaled, lambda plain: ScaledLinear(plain, side="output")),
    (PackedLinear, lambda _plain: nn.Linear(6, 8)),
    (PackedLowRank, lambda plain: LowRankLinear(plain, 2)),
    (lambda layers, _stacks: OneByOne(layers, rows_in_all(6)), lambda _plain: nn.Linear(6, 8)),
])  # fmt: skip
def test_a_packed_layer_and_its_gradients_are_those_of_the_layer_of_each_run(
    packed_layer: Callable[..., nn.Module], make: Callable[[nn.Linear], nn.Module]
) -> None:
    torch.manual_seed(0)
    plain, x = nn.Linear(6, 8), torch.randn(3 * 2, 5, 6).requires_grad_()
    layers, stacks = [make(plain) for _ in range(3)], Stacks()
    trained = [parameter for layer in layers for parameter in layer.parameters() if parameter.requires_grad]
    for parameter in trained:
        nn.init.normal_(parameter)
    expected = torch.cat([layer(part) for layer, part in zip(layers, x.chunk(3), strict=True)])
    gradients = torch.autograd.grad(expected.square().sum(), [x, *trained])
    found = packed_layer(layers, stacks)(x)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    stacks.hand_out_gradients()
    torch.testing.assert_close([x.grad, *(it.grad for it in trained)], [*gradients], rtol=1e-4, atol=1e-4)


def test_a_gradient_from_a_shared_weights_other_place_is_added() -> None:
    """As an embedding has one beside the output layer that shares its weight."""
    weights, stacks = [nn.Parameter(torch.zeros(2)) for _ in range(2)], Stacks()
    weights[0].grad = torch.ones(2)
    stacks(weights).grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    stacks.hand_out_gradients()
    assert torch.equal(
        torch.stack([it.grad for it in weights if it.grad is not None]), torch.tensor([[2.0, 3.0], [3.0, 4.0]])
    )


@torch.no_grad()
def test_an_input_that_is_changed_in_place_between_two_layers_is_not_shared() -> None:
    def made() -> PackedLowRank:
        return PackedLowRank([LowRankLinear(nn.Linear(6, 8), 2) for _ in range(2)], Stacks())

    def outputs() -> list[Tensor]:
        x = torch.linspace(-1, 2, 24).view(4, 6)
        first = one(x)
        x += 1
        return [first, other(x)]

    torch.manual_seed(0)
    one, other = made(), made()
    expected = outputs()
    one.inputs = other.inputs = shared = SharedInputs()
    with shared.watched():
        outputs()
    torch.testing.assert_close(outputs(), expected)


def test_batches_that_runs_share_are_made_once() -> None:
    made = Texts("class")
    shared = SharedBatches(made)  # pyrefly: ignore[bad-argument-type]
    for epoch, start in ((0, 0), (1, 0), (2, 3)):
        made.given.clear()
        pairs = list(zip(shared.epoch(epoch, start=start), shared.epoch(epoch, start=start), strict=True))
        assert made.given == list(range(start, 4))
        assert all(one is other for one, other in pairs)


def test_every_packable_method_is_among_those_compared(compose: Compose) -> None:
    given = [cell.values if hasattr(cell, "values") else cell for cell in CELLS]
    compared = {override for _, _, overrides in given for override in overrides if override.startswith("method=")}  # pyrefly: ignore[not-iterable]
    made = {name: compose("task=grammar", "model=tiny_roberta", f"method={name}") for name in names_in("method")}
    assert {f"method={name}" for name, config in made.items() if config.method.packable} <= compared
