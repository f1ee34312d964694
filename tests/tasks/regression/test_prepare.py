from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor
from torch.nn import functional

from rosa_bench.config.schema import RunConfig
from rosa_bench.data.batches import Batches, TensorBatches
from rosa_bench.models.perceptron import PerceptronConfig, PerceptronForRegression, make_perceptron
from rosa_bench.models.spec import Perceptron
from rosa_bench.records.record import to_values
from rosa_bench.records.store import load_records
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import recipe, run
from rosa_bench.system.errors import UserError
from rosa_bench.system.resources.meter import Meter
from rosa_bench.tasks.prepared import OnBatches, PreparedTask
from rosa_bench.tasks.regression.prepare import make_target, mean_squared_errors
from rosa_bench.training.evaluation import Predictions
from rosa_bench.training.loop import fit
from rosa_bench.training.state import Epoch

Compose = Callable[..., RunConfig]
MakeSetup = Callable[..., ResolvedRun]

INPUTS, OUTPUTS, TRUE_RANK, REPLICATES, TRAIN, VALIDATION, HIDDEN = 12, 5, 3, 2, 80, 40, 8
TINY = (
    "task=synthetic", "task.inputs=12", "task.outputs=5", "task.true_rank=3", "task.replicates=2",
    "task.train_rows=80", "task.validation_rows=40", "epochs=3", "batch_size=16", "rank=2",
    "+default.method.resample_every=1", "device=cpu",
)  # fmt: skip
MODELS = {"mlp1": ("model=mlp1",), "mlp2": ("model=mlp2", "model.hidden=[8]")}
SHAPES = {"mlp1": [(5, 12)], "mlp2": [(8, 12), (5, 8)]}


@pytest.fixture
def make_setup(compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSetup:
    """``make_setup("method=lora")`` resolves a tiny run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: resolve(compose(*TINY, *overrides), {})


@pytest.fixture
def problem_of(make_setup: MakeSetup) -> Callable[..., PreparedTask]:
    """``problem_of("model=mlp2", ...)`` prepares the task of such a run."""

    def make(*overrides: str) -> PreparedTask:
        resolved = make_setup(*overrides)
        return resolved.config.task.prepare(resolved.context)

    return make


ProblemOf = Callable[..., PreparedTask]


def tensors(batches: Batches | None) -> tuple[Tensor, Tensor]:
    """x (rows, replicates, in) and y (rows, replicates, out)."""
    assert isinstance(batches, TensorBatches)
    return batches.tensors["inputs"], batches.tensors["labels"]


def validation_of(problem: PreparedTask) -> Batches:
    evaluation = problem.report or problem.select
    assert isinstance(evaluation, OnBatches)
    return evaluation.batches


def held_out_of(problem: PreparedTask) -> Batches | None:
    assert isinstance(problem.select, OnBatches)
    return problem.select.batches if problem.report else None


def weights(problem: PreparedTask) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in problem.model.parameters()]


def reference(layers: list[Tensor], x: Tensor) -> Tensor:
    """Outputs of each replicate's network with ReLU between layers, computed with PyTorch's functions."""
    outputs = []
    for replicate in range(x.shape[1]):
        hidden = x[:, replicate]
        for number, layer in enumerate(layers):
            hidden = functional.linear(functional.relu(hidden) if number else hidden, layer[replicate])
        outputs.append(hidden)
    return torch.stack(outputs, 1)


def squared_errors(outputs: Tensor, labels: Tensor) -> list[float]:
    """Mean squared error of each replicate."""
    return [functional.mse_loss(outputs[:, n], labels[:, n]).item() for n in range(outputs.shape[1])]


def test_training_rows_are_shuffled_in_every_epoch(problem_of: ProblemOf) -> None:
    train = problem_of("protocol=paper").train
    orders = [torch.cat([batch["inputs"] for batch in train.epoch(number)]) for number in (0, 1)]
    stored, _ = tensors(train)
    for one, other in ((orders[0], stored), (orders[1], stored), (orders[0], orders[1])):
        assert torch.equal(one.flatten().sort().values, other.flatten().sort().values)
        assert not torch.equal(one, other)


# Random draws


@pytest.mark.parametrize("true_rank", [1, 3])
@pytest.mark.parametrize("model", MODELS)
def test_each_weight_changes_by_a_matrix_of_the_true_rank(compose: Compose, model: str, true_rank: int) -> None:
    spec = compose(*TINY, *MODELS[model]).model
    assert isinstance(spec, Perceptron)
    start = make_perceptron(spec, inputs=INPUTS, outputs=OUTPUTS, replicates=REPLICATES)
    before = [parameter.detach().clone() for parameter in start.parameters()]
    target = make_target(start, true_rank, torch.Generator().manual_seed(0))
    for old, kept, new in zip(before, start.parameters(), target.parameters(), strict=True):
        assert torch.equal(old, kept)
        for own in (new - old).detach().double():
            assert torch.linalg.matrix_rank(own, atol=1e-5, rtol=0.0) == true_rank


def test_the_change_of_the_outputs_has_the_inputs_variance(problem_of: ProblemOf) -> None:
    problem = problem_of("task.inputs=64", "task.outputs=48", "task.true_rank=24", "task.replicates=4")
    x, y = tensors(problem.train)
    assert (y - reference(weights(problem), x)).square().mean().item() == pytest.approx(1, abs=0.1)


def test_labels_come_from_a_map_that_differs_by_the_true_rank(problem_of: ProblemOf) -> None:
    problem = problem_of("model=mlp1")
    (start,) = weights(problem)
    for batches in (problem.train, validation_of(problem)):
        x, y = tensors(batches)
        for replicate in range(REPLICATES):
            one_x, one_y = x[:, replicate].double(), y[:, replicate].double()
            linear_map = torch.linalg.lstsq(one_x, one_y).solution
            torch.testing.assert_close(one_x @ linear_map, one_y, rtol=0, atol=1e-5)  # no residual
            move = linear_map.mT - start[replicate].double()
            assert torch.linalg.matrix_rank(move, atol=1e-5, rtol=0.0) == TRUE_RANK


def test_a_perceptrons_labels_are_the_targets_outputs(problem_of: ProblemOf) -> None:
    problem = problem_of(*MODELS["mlp2"], "seed=5")
    assert isinstance(problem.model, PerceptronForRegression)
    target = make_target(problem.model, TRUE_RANK, torch.Generator().manual_seed(6 * 982_451_653))
    for batches in (problem.train, validation_of(problem)):
        x, y = tensors(batches)
        torch.testing.assert_close(y, reference(list(target.parameters()), x).detach())
        assert min(squared_errors(reference(weights(problem), x), y)) > 0.1


@pytest.mark.parametrize("model", MODELS)
def test_inputs_are_standard_normal_and_all_distinct(problem_of: ProblemOf, model: str) -> None:
    problem = problem_of(*MODELS[model], "protocol=fair")
    drawn = [tensors(batches)[0] for batches in (problem.train, held_out_of(problem), validation_of(problem))]
    assert kstest(torch.cat(drawn).flatten().numpy(), "norm").pvalue > 1e-3
    rows = torch.cat([x.flatten(0, 1) for x in drawn])  # (rows of all splits and replicates, in)
    assert len(rows.unique(dim=0)) == REPLICATES * (TRAIN + VALIDATION)


@pytest.mark.parametrize("model", MODELS)
def test_the_problem_is_a_function_of_the_seed(problem_of: ProblemOf, model: str) -> None:
    first, again, other = (problem_of(*MODELS[model], f"seed={seed}") for seed in (0, 0, 1))
    for left, right in ((first.train, again.train), (validation_of(first), validation_of(again))):
        assert all(map(torch.equal, tensors(left), tensors(right)))
        for one, two in zip(left.epoch(2), right.epoch(2), strict=True):
            assert torch.equal(one["labels"], two["labels"])
    assert all(map(torch.equal, weights(first), weights(again)))
    assert first.info == again.info
    assert len(first.info.fingerprint) == 64
    assert other.info.fingerprint != first.info.fingerprint
    assert not any(map(torch.equal, weights(first), weights(other)))
    assert not any(map(torch.equal, tensors(first.train), tensors(other.train)))


def test_methods_are_compared_on_the_same_problem(problem_of: ProblemOf) -> None:
    first, *others = (problem_of(*settings) for settings in (
        ("method=ft",), ("method=lora", "rank=1", "lr=1e-2"), ("method=rosa", "epochs=7", "batch_size=5"),
    ))  # fmt: skip
    for other in others:
        assert other.info.fingerprint == first.info.fingerprint
        assert all(map(torch.equal, weights(first), weights(other)))


@pytest.mark.parametrize("key", ["task.true_rank=2", "task.inputs=13", "task.outputs=4", "task.replicates=3"])
def test_the_fingerprint_is_the_hash_of_the_drawn_numbers(problem_of: ProblemOf, key: str) -> None:
    assert problem_of(key).info.fingerprint != problem_of().info.fingerprint


@pytest.mark.parametrize(("overrides", "rows", "subset"), [
    ((), (80, 0, 40), False),
    (("protocol=fair",), (72, 8, 40), False),
    (("protocol=fair", "protocol.held_out_max=3"), (77, 3, 40), False),
    (("limit_train=50",), (50, 0, 40), True),
    (("limit_eval=20",), (80, 0, 20), True),
    (("protocol=fair", "limit_train=50", "limit_eval=20"), (45, 5, 20), True),
    (("limit_train=500", "limit_eval=500"), (80, 0, 40), False),
])  # fmt: skip
@pytest.mark.parametrize("model", MODELS)
def test_sizes(
    problem_of: ProblemOf, model: str, overrides: tuple[str, ...], rows: tuple[int, int, int], subset: bool
) -> None:
    problem = problem_of(*MODELS[model], *overrides)
    train, held_out, validation = rows
    assert problem.info.rows == {"train": train, "held_out": held_out, "validation": validation}
    assert problem.info.official_rows == {"train": 80, "validation": 40}
    assert problem.info.subset is subset
    assert problem.info.synthetic is True
    for batches, count in (
        (problem.train, train),
        (held_out_of(problem), held_out),
        (validation_of(problem), validation),
    ):
        if not count:
            assert batches is None
            continue
        x, y = tensors(batches)
        assert x.shape == (count, REPLICATES, INPUTS)
        assert y.shape == (count, REPLICATES, OUTPUTS)
    assert [weight.shape for weight in weights(problem)] == [(REPLICATES, *shape) for shape in SHAPES[model]]


# Replicates


def trained(model: PerceptronForRegression, x: Tensor, y: Tensor, config: RunConfig) -> list[Epoch]:
    batches = TensorBatches(x, y, batch_size=config.batch_size, seed=config.seed)
    return fit(
        model, config.method, batches, recipe=recipe(config, len(batches)), evaluate=lambda: {"loss": 0.0},
        autocast=nullcontext, meter=Meter(torch.device("cpu")),
    )  # fmt: skip


@pytest.mark.parametrize(
    "method",
    [
        ("method=ft",),
        ("method=lora", "protocol=paper"),
        ("method=lora", "protocol=fair"),
        ("method=ia3",),
        ("method=rosa", "method.select=top"),  # the only deterministic selection
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("model", MODELS)
def test_each_replicate_trains_as_it_would_alone(make_setup: MakeSetup, model: str, method: tuple[str, ...]) -> None:
    resolved = make_setup(*MODELS[model], *method, "lr=1e-2")
    config = resolved.config
    problem = config.task.prepare(resolved.context)
    stack, (x, y) = problem.model.double(), (tensor.double() for tensor in tensors(problem.train))
    assert isinstance(stack, PerceptronForRegression)
    before = [parameter.detach().clone() for parameter in stack.parameters()]
    config.method.attach(stack)
    widths = [INPUTS, *([HIDDEN] if model == "mlp2" else []), OUTPUTS]
    singles = []
    for number in range(REPLICATES):
        single = PerceptronForRegression(PerceptronConfig(widths, "relu", replicates=1)).double()
        config.method.attach(single)
        own = {name: tensor[number : number + 1] for name, tensor in stack.state_dict().items()}
        single.load_state_dict(own)  # copies
        singles.append(single)

    together = trained(stack, x, y, config)
    alone = [
        trained(single, x[:, number : number + 1], y[:, number : number + 1], config)
        for number, single in enumerate(singles)
    ]
    for network in (stack, *singles):
        config.method.merge(network)
    for place, (start, stacked) in enumerate(zip(before, stack.parameters(), strict=True)):
        assert not torch.isclose(start, stacked).flatten(1).all(1).any()  # each of them trained
        for number, single in enumerate(singles):
            (own,) = list(single.parameters())[place]
            torch.testing.assert_close(stacked[number], own, rtol=1e-8, atol=1e-8)
    for epoch, each in zip(together, zip(*alone, strict=True), strict=True):
        assert epoch.train_loss == pytest.approx(sum(one.train_loss for one in each), rel=1e-5)


# Best error for each rank


def reached(x: np.ndarray, y: np.ndarray, start: np.ndarray, rank: int) -> np.ndarray:
    """Weights (in, out) after the best update of this rank: least squares, with the fit truncated to the rank.

    Source: reduced-rank regression (Izenman 1975), with numpy only.
    """
    full = np.linalg.lstsq(x, y - x @ start, rcond=None)[0]
    right = np.linalg.svd(x @ full)[2][:rank]
    return start + full @ right.T @ right


@pytest.mark.parametrize("train", [80, 8])  # more rows than inputs, and fewer
@pytest.mark.parametrize("protocol", ["paper", "fair"])
def test_best_of_rank_against_least_squares_and_svd(problem_of: ProblemOf, train: int, protocol: str) -> None:
    problem = problem_of("model=mlp1", f"task.train_rows={train}", f"protocol={protocol}")
    (start,) = weights(problem)
    best = problem.facts["best_of_rank"]
    assert set(best) == {"train", "validation"}
    for split, batches in (("train", problem.train), ("validation", validation_of(problem))):
        x, y = (tensor.double().numpy() for tensor in tensors(batches))
        fit_x, fit_y = (tensor.double().numpy() for tensor in tensors(problem.train))
        for replicate in range(REPLICATES):
            first = start[replicate].double().numpy().T
            expected = [
                np.mean((x[:, replicate] @ reached(fit_x[:, replicate], fit_y[:, replicate], first, rank)
                         - y[:, replicate]) ** 2)
                for rank in range(OUTPUTS + 1)
            ]  # fmt: skip
            assert best[split][replicate] == pytest.approx(expected, rel=1e-6, abs=1e-10)


def test_best_of_rank_falls_from_the_initial_loss_to_zero_at_the_true_rank(problem_of: ProblemOf) -> None:
    problem = problem_of("model=mlp1")
    best = problem.facts["best_of_rank"]
    for split, batches in (("train", problem.train), ("validation", validation_of(problem))):
        x, y = tensors(batches)
        untouched = squared_errors(reference(weights(problem), x), y)
        assert [each[0] for each in best[split]] == pytest.approx(untouched, rel=1e-5)
    for each in best["train"]:
        assert len(each) == OUTPUTS + 1
        assert all(high >= low for high, low in pairwise(each))
        assert each[TRUE_RANK - 1] > 1e-3
        assert max(each[TRUE_RANK:]) < 1e-10  # y is float32


def test_only_a_linear_model_has_best_of_rank(problem_of: ProblemOf) -> None:
    assert problem_of(*MODELS["mlp2"]).facts == {}


LONG = ("epochs=500", "batch_size=80", "lr=0.05")  # one step per epoch


def train_errors(make_setup: MakeSetup, *overrides: str) -> tuple[list[float], list[list[float]]]:
    """Each replicate's final mean squared error on train, and its bounds."""
    resolved = make_setup("model=mlp1", *LONG, *overrides)
    problem = resolved.config.task.prepare(resolved.context)
    x, y = tensors(problem.train)
    assert isinstance(problem.model, PerceptronForRegression)
    resolved.config.method.attach(problem.model)
    trained(problem.model, x, y, resolved.config)
    resolved.config.method.merge(problem.model)
    outputs = reference([weight.double() for weight in weights(problem)], x.double())
    return squared_errors(outputs, y.double()), problem.facts["best_of_rank"]["train"]


@pytest.mark.parametrize("rank", [1, 2])
def test_lora_converges_to_its_bound_and_never_below(make_setup: MakeSetup, rank: int) -> None:
    errors, bounds = train_errors(make_setup, "method=lora", "method.init=kaiming", f"rank={rank}")
    for error, bound in zip(errors, bounds, strict=True):
        assert bound[rank] * (1 - 1e-6) <= error <= bound[rank] * 1.01


def test_rosa_goes_below_loras_bound(make_setup: MakeSetup) -> None:
    errors, bounds = train_errors(make_setup, "method=rosa", "rank=1", "method.resample_every=25")
    for error, bound in zip(errors, bounds, strict=True):
        assert error < bound[1] / 2


# Whole runs


@pytest.mark.parametrize("protocol", ["paper", "fair"])
@pytest.mark.parametrize("method", ["ft", "lora", "rosa", "ia3"])
@pytest.mark.parametrize("model", MODELS)
def test_a_run_writes_a_complete_record(make_setup: MakeSetup, model: str, method: str, protocol: str) -> None:
    resolved = make_setup(*MODELS[model], f"method={method}", f"protocol={protocol}")
    record = run(resolved)
    assert load_records(resolved.results_dir) == [record]
    assert (record.status, record.error) == ("completed", None)
    assert record.model["source"] == "random"
    assert record.data.source == "embedded synthetic_regression"
    held_out = 8 if protocol == "fair" else 0
    assert record.data.rows.by_split == {"train": 80 - held_out, "held_out": held_out, "validation": 40}
    assert (record.data.best_of_rank is not None) == (model == "mlp1")

    total = sum(rows * columns for rows, columns in SHAPES[model])
    factors = sum(2 * (rows + columns) for rows, columns in SHAPES[model])  # rank 2
    trained = {"ft": total, "lora": factors, "rosa": factors, "ia3": sum(columns for _, columns in SHAPES[model])}
    found = record.parameters
    assert (found.total, found.trainable) == (REPLICATES * total, REPLICATES * trained[method])
    assert ("resample" in record.time_s) == (method == "rosa")

    scores = to_values(record)["scores"]
    assert (scores["reported"], scores["lower_is_better"]) == ("mse", True)
    assert torch.__version__ in scores["signature"]
    shown = [scores["selected"], scores["last"], *(epoch["scores"] for epoch in scores["epochs"])]
    for figures in shown:
        assert set(figures) - {"epoch"} == {"mse", "mse.0", "mse.1", "loss"}
        assert figures["mse"] == pytest.approx((figures["mse.0"] + figures["mse.1"]) / 2)
        assert figures["loss"] == pytest.approx(figures["mse.0"] + figures["mse.1"])
    by_epoch = [epoch["scores"]["mse"] for epoch in scores["epochs"]]
    assert len(by_epoch) == 3
    assert scores["selected_on"] == ("held_out" if held_out else "validation")
    assert scores["selection_score"] == min(by_epoch)
    assert scores["selected"]["epoch"] == by_epoch.index(min(by_epoch)) + 1
    if not held_out:
        assert scores["last"] == {"epoch": 3, **scores["epochs"][-1]["scores"]}


@pytest.mark.parametrize(("method", "protocol"), [("ft", "paper"), ("lora", "fair"), ("rosa", "fair")])
@pytest.mark.parametrize("model", MODELS)
def test_the_saved_model_is_the_one_whose_errors_were_recorded(
    make_setup: MakeSetup, model: str, method: str, protocol: str
) -> None:
    # The learning rate keeps rising until training is unstable, so the best epoch is not the last.
    rising = ("lr=2", "optimizer.warmup_steps=15")
    resolved = make_setup(*MODELS[model], f"method={method}", f"protocol={protocol}", *rising, "save_model=true")
    record = run(resolved)
    selected, last = record.selected, record.last
    assert selected["epoch"] < last["epoch"] == 3
    saved = PerceptronForRegression.from_pretrained(resolved.saved_model)
    assert [parameter.shape for parameter in saved.parameters()] == [(REPLICATES, *shape) for shape in SHAPES[model]]
    x, y = tensors(validation_of(resolved.config.task.prepare(resolved.context)))
    found = squared_errors(reference([weight.detach() for weight in saved.parameters()], x), y)
    assert found == pytest.approx([selected["mse.0"], selected["mse.1"]], rel=1e-4)
    assert found != pytest.approx([last["mse.0"], last["mse.1"]], rel=1e-2)


@pytest.mark.parametrize("word", ["optimizer.clip_norm=1", "method=fish_mask", "method=diff_pruning"])
def test_what_replicates_would_share_is_allowed_with_one(make_setup: MakeSetup, word: str) -> None:
    assert run(make_setup("task.replicates=1", word)).status == "completed"


# User errors


@pytest.mark.parametrize(("overrides", "words"), [
    (["task.true_rank=40"], ["task.true_rank=40", "5 x 12", "model=mlp1", "at most 5"]),
    ([*MODELS["mlp2"], "task.outputs=12", "task.true_rank=9"], ["task.true_rank=9", "8 x 12", "model=mlp2", "at most 8",
                                                               "model.hidden"]),
    (["task.replicates=0"], ["task.replicates=0", "at least 1"]),
    (["task.inputs=0"], ["task.inputs=0", "at least 1"]),
    (["task.true_rank=0"], ["task.true_rank=0", "at least 1"]),
    (["task.train_rows=0"], ["task.train_rows=0", "at least 1"]),
    (["task.validation_rows=0"], ["task.validation_rows=0", "at least 1"]),
    (["task.score=accuracy"], ["task.score=accuracy", "mse"]),
    (["task.embedded=null"], ["synthetic", "embedded"]),
    (["+task.text=[a]"], ["task.text"]),
    (["method=lora", "rank=6"], ["rank=6", "layers.0", "5 x 12", "at most 5"]),
    ([*MODELS["mlp2"], "rank=8"], ["rank=8", "layers.1", "5 x 8", "at most 5"]),
    (["optimizer.clip_norm=1"], ["optimizer.clip_norm", "task.replicates=1"]),
    (["method=fish_mask"], ["method=fish_mask", "depend on each other", "task.replicates=1"]),
    (["method=diff_pruning"], ["method=diff_pruning", "depend on each other", "task.replicates=1"]),
    (["method=bitfit"], ["method=bitfit", "nothing to train"]),
    (["method=bitfit", "protocol=fair"], ["method=bitfit", "nothing to train"]),
    (["method=head_only"], ["method=head_only", "no head"]),
    (["method.targets=query"], ["method.targets=query", "layers.0"]),
    (["protocol=fair", "limit_train=1"], ["synthetic", "no train rows", "limit_train"]),
])  # fmt: skip
def test_a_user_error_is_one_line_and_leaves_no_record(
    make_setup: MakeSetup, tmp_path: Path, overrides: list[str], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        run(make_setup(*overrides))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("method", ["lora", "rosa"])
def test_rank_error_at_the_real_sizes_names_the_shape(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^rank=33 does not fit layers\.0, a 32 x 512 weight; .*at most 32"):
        run(resolve(compose("task=synthetic", f"method={method}", "rank=33", "limit_train=20", "limit_eval=5"), {}))


@pytest.mark.parametrize(("task", "model", "kind"), [
    ("cola", "mlp1", "an encoder"), ("grammar", "mlp2", "an encoder"),
    ("synthetic", "roberta_base", "a perceptron"), ("synthetic", "tiny_bert", "a perceptron"),
])  # fmt: skip
def test_wrong_model_error_names_the_kind_needed(compose: Compose, task: str, model: str, kind: str) -> None:
    with pytest.raises(UserError, match=rf"^task={task} is not for model={model}; it needs {kind}, such as \w+$"):
        compose(f"task={task}", f"model={model}")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_replicate_that_diverges_leaves_no_error_to_report(value: float) -> None:
    outputs, labels = torch.ones(4, 3, 2), torch.zeros(4, 3, 2)
    assert mean_squared_errors(Predictions(outputs, labels, 1.0))["mse"] == 1
    outputs[0, 1, 0] = value
    assert mean_squared_errors(Predictions(outputs, labels, 1.0)).keys() == {"loss"}
