"""Laws of every method on every kind of model. A method is in the matrix from the day its yaml is in conf/method.

The quick cells are under the protocol ``fair``. One decoder under ``paper`` is slow; the other cells
take the same paths through the code, and are in the longest tier. So are PEFT's tuners there, and on one of the two
decoders: PEFT sees linear layers, square and not, in the others as well.
"""

import copy
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.groups import kinds
from rosa_bench.layers.adapter import Adapter, adapters
from rosa_bench.layers.fused.joined import joined
from rosa_bench.layers.fused.stacked import materialised
from rosa_bench.methods.base import Changed
from rosa_bench.methods.peft.tuner import PeftTuner
from rosa_bench.methods.size import size_of
from rosa_bench.runs.checkpoints.resumable import check_optimizer
from rosa_bench.training.cuda_graphs import eager, replaying
from rosa_bench.training.memory.offload import offloaded
from rosa_bench.training.memory.recompute import recomputed
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Training

# torch's advice about the sparse tensors of PEFT's SHiRA, once per process.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

RANK = 4
METHODS = sorted(path.stem for path in (conf_folder() / "method").glob("*.yaml"))
OURS = [name for name in METHODS if not issubclass(kinds("method", name)[0], PeftTuner)]
PEFTS = [name for name in METHODS if name not in OURS]
QUICK = [*product(METHODS, ("tiny_roberta", "tiny_gpt2"), ("fair",)), *product(OURS, ("tiny_llama",), ("fair",))]
SLOW = [*product(OURS[::4], ("tiny_gpt2",), ("paper",))]
ENCODERS = ("tiny_bert", "tiny_roberta")
LONG = [
    *product(METHODS, (*ENCODERS, "tiny_llama"), ("paper",)),
    *product(METHODS, ("tiny_bert",), ("fair",)),
    *product(PEFTS, ("tiny_llama",), ("fair",)),
    *product([name for name in METHODS if name not in OURS[::4]], ("tiny_gpt2",), ("paper",)),
]
CELLS = [
    *QUICK,
    *(pytest.param(cell, marks=pytest.mark.slow) for cell in SLOW),
    *(pytest.param(cell, marks=pytest.mark.long) for cell in LONG),
]

WIDE = {"targets": "all-linear"}
DRAWS = {**WIDE, "resample_every": 1, "resample_unit": "steps"}  # each of which writes into all matrices of the blocks
# What a method reads and writes between steps in other ways than by default.
VARIANTS = [
    {"method_name": name, "changes": settings}
    for name, settings in (
        ("rosa", DRAWS),
        ("rosa", {**DRAWS, "basis": "gradient"}),
        ("rosa", {**DRAWS, "basis": "random", "init": "zero"}),
        ("rosa", {**DRAWS, "svd_of": "previous"}),
        ("rosa", {**DRAWS, "svd_of": "initial"}),
        ("rosa", {**DRAWS, "resample_every": RANK, "stagger": True}),
        ("rso", {**DRAWS, "moments": "rotate"}),
        ("relora", DRAWS),
        ("relora", {**DRAWS, "init": "uniform"}),
        ("switch_lora", {**DRAWS, "resample_every": 2 * RANK}),
        ("galore", {**WIDE, "moments": "rotate", "rest": "none"}),
        ("fira", {"moments": "reset", "targets": "attention"}),
    )
]

# Numbers of trainable parameters, from the sizes of the plain model and the method's settings. A range where a method
# shares out ranks among layers by what it sees in the data.
Formula = Callable[[Any, Any], int | range]


def factors(sizes: Any, method: Any) -> int:
    """A (out x r) and B (r x in) of every layer."""
    return sum(method.rank * (rows + columns) for rows, columns in sizes.targets) + sizes.beside


def first_factor(sizes: Any, method: Any) -> int:
    """A (out x r) of every layer."""
    return sum(method.rank * rows for rows, _ in sizes.targets) + sizes.beside


def shared_out(sizes: Any, method: Any) -> range:
    """As many ranks as `factors` has, where layers of any size may have up to twice as many, or none."""
    ends, ranks = [rows + columns for rows, columns in sizes.targets], method.rank * len(sizes.targets)
    return range(ranks * min(ends) + sizes.beside, ranks * max(ends) + sizes.beside + 1)


def bottlenecks(sizes: Any, method: Any) -> int:
    """Down, up and their biases at each place of every block; layer normalisation; the head if the protocol says so."""
    each = 2 * sizes.width * method.size + method.size + sizes.width + (2 * sizes.width if method.own_norm else 0)
    norms = sizes.norms if method.train_norms else 0
    return len(method.places) * sizes.blocks * each + norms + (sizes.head if method.train_head else 0)


def prefixes(sizes: Any, method: Any) -> int:
    """Keys and values of every block; the head if the protocol says so."""
    return 2 * sizes.blocks * method.tokens * sizes.keys + (sizes.head if method.train_head else 0)


FORMULAS: dict[str, Formula] = {
    "ft": lambda sizes, _: sizes.total,
    "head_only": lambda sizes, _: sizes.head,
    "bitfit": lambda sizes, method: sizes.biases + (sizes.head if method.train_head else 0),
    **dict.fromkeys(
        ("blockwise", "lisa"), lambda sizes, method: sizes.total - (sizes.blocks - method.blocks) * sizes.block
    ),
    "badam": lambda sizes, method: method.blocks * sizes.block + sizes.head,
    "prompt_tuning": lambda sizes, method: method.tokens * sizes.width + (sizes.head if method.train_head else 0),
    "p_tuning": lambda sizes, method: (  # and a network of three layers, each as wide as the model
        method.tokens * sizes.width + 3 * (sizes.width + 1) * sizes.width + (sizes.head if method.train_head else 0)
    ),
    "ia3": lambda sizes, method: sizes.beside + sum(pair[method.side == "input"] for pair in sizes.targets),
    **dict.fromkeys(("lora", "lora_plus", "rosa"), factors),
    "rso": first_factor,
    **dict.fromkeys(("relora", "rslora", "hira", "lora_ga", "pissa", "olora", "shira", "switch_lora"), factors),
    "peft": lambda sizes, _: sizes.beside + sum(8 * (rows + columns) for rows, columns in sizes.targets),
    "dora": lambda sizes, method: factors(sizes, method) + sum(rows for rows, _ in sizes.targets),
    "adalora": lambda sizes, method: sizes.beside + sum(
        method.initial_rank * (rows + columns + 1) for rows, columns in sizes.targets
    ),
    "eva": shared_out,
    **dict.fromkeys(("lora_fa", "miss"), first_factor),
    "vera": lambda sizes, method: sizes.beside + sum(method.config["r"] + rows for rows, _ in sizes.targets),
    "randlora": lambda sizes, method: sizes.beside + sum(
        -(-min(pair) // method.config["r"]) * (method.config["r"] + min(pair)) for pair in sizes.targets
    ),
    "oft": lambda sizes, method: sizes.beside + sum(
        columns * (method.config["oft_block_size"] - 1) // 2 for _, columns in sizes.targets
    ),
    **dict.fromkeys(("houlsby", "pfeiffer", "lin"), bottlenecks),
    **dict.fromkeys(("p_tuning_v2", "prefix_tuning"), prefixes),
    **dict.fromkeys(("galore", "fira", "apollo", "flora"), lambda sizes, _: sizes.total),
    "diff_pruning": lambda sizes, method: (
        2 * (sizes.total - sizes.head) + sizes.tensors + (sizes.head if method.train_head else 0)
    ),
    "laser": lambda *_: 0,
    "fish_mask": lambda sizes, method: (
        round(method.density * (sizes.total - sizes.head)) + (sizes.head if method.train_head else 0)
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=CELLS, ids="-".join)
def any_trial(request: pytest.FixtureRequest, make_trial: Callable[..., Any]) -> Iterator[Any]:
    """Each cell of the matrix."""
    yield make_trial(*request.param)


@pytest.fixture(scope="module")
def trial(any_trial: Any) -> Any:
    """Each cell that the method serves."""
    if any_trial.refusal is not None:
        pytest.skip(f"refused: {any_trial.refusal}")
    return any_trial


@pytest.fixture(scope="module")
def _trains(trial: Any) -> None:
    """Skips the cells where nothing trains."""
    if not trial.method.trains:
        pytest.skip("declared: nothing trains")


def assert_close(found: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def assert_same_gradients(trial: Any, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_close(found[name], gradient, max(trial.atol, 1e-5 * gradient.abs().max().item()))


def state(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, by name."""
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def different(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that differ in any bit."""
    assert found.keys() == expected.keys()
    return [name for name in expected if not torch.equal(found[name], expected[name])]


def trained_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# Which models a method serves


def test_a_refusal_is_one_line_that_names_the_method_and_a_way_out(any_trial: Any) -> None:
    if (line := any_trial.refusal) is not None:
        assert f"method={any_trial.method_name}" in line or f"method {any_trial.method_name}" in line
        assert any(word in line for word in ("choose", "use ", "set ", "install"))
        assert "\n" not in line


@pytest.mark.slow
def test_each_method_serves_at_least_one_model(make_trial: Callable[..., Any]) -> None:
    models = ("tiny_roberta", "tiny_gpt2", "tiny_llama")
    assert not [
        method for method in METHODS if all(make_trial(method, model, "fair").refusal is not None for model in models)
    ]


# Attaching


def test_attaching_keeps_the_function_if_declared(trial: Any) -> None:
    found, plain = trial.logits(trial.untrained), trial.logits(trial.plain)
    if trial.method.keeps_function:
        assert_close(found, plain, trial.atol)
    else:  # otherwise the declaration would be wrong
        assert not torch.allclose(found, plain, rtol=0, atol=trial.atol)


def test_only_what_is_declared_trains(trial: Any) -> None:
    model = trial.untrained
    declared = {id(parameter) for parameter in trial.method.trainable(model)}
    found = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert bool(found) == trial.method.trains
    assert found <= declared if trial.method.takes_turns else found == declared


def test_what_trains_is_in_replaced_layers_or_the_head_if_declared(trial: Any) -> None:
    layers = list(adapters(trial.untrained))
    held = {id(it) for _, layer in layers for it in layer.parameters()}
    held |= {id(it) for it in trial.method.head_parameters(trial.untrained)}
    beside = [it for it in trial.method.trainable(trial.untrained) if id(it) not in held]
    assert trial.method.adapts_layers is (bool(layers) and not beside)


def test_the_optimizer_gets_each_declared_parameter_once(trial: Any) -> None:
    model = trial.untrained
    found = [id(parameter) for group in trial.method.parameter_groups(model) for parameter in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {id(parameter) for parameter in trial.method.trainable(model)}


def test_the_trainable_count_equals_its_formula(trial: Any, shapes_of: Callable[..., Any]) -> None:
    name = trial.method_name
    if name not in FORMULAS:
        pytest.fail(f"conf/method/{name}.yaml is new: say in FORMULAS, at the top of this file, how much it trains")
    count = sum(parameter.numel() for parameter in trial.untrained.parameters() if parameter.requires_grad)
    expected = FORMULAS[name](shapes_of(trial), trial.method)
    assert count in expected if isinstance(expected, range) else count == expected


def test_a_seed_fixes_all_random_draws(trial: Any) -> None:
    torch.manual_seed(1234)  # the global seed must not matter
    again, first = state(trial.attach()), state(trial.untrained)
    assert again.keys() == first.keys()
    assert not [name for name in first if not torch.equal(first[name], again[name])]


# Training


@pytest.mark.usefixtures("_trains")
def test_steps_change_only_what_is_declared(trial: Any) -> None:
    before, model = state(trial.untrained), trial.trained[0]
    after = state(model)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed <= set(trial.method.state(model))  # so a checkpoint holds it
    # A key bias shifts all of a query's scores equally, and the softmax removes the shift, so it has no gradient.
    idle = {name for name in after if name.endswith("self.key.bias")}
    # What trains at first must move in the first half, after which a method may freeze it or set it back.
    kept = trial.trained[1].half
    half, moments = kept.part("model").tensors, kept.part("optimizer").tensors
    # If chance closes the gate of a whole weight at every step, no gradient has reached the weight's difference.
    idle |= {at for at in half if at.endswith(".difference") and not moments[f"exp_avg.{at}"].any()}
    moved = {name for name in half.keys() & before.keys() if not torch.equal(half[name], before[name])} | changed
    found = (moved & dict(model.named_parameters()).keys()) - idle
    expected = trained_names(trial.untrained) - idle
    assert found > expected if trial.method.takes_turns else found == expected


def test_a_resumed_training_ends_equal_to_the_bit(trial: Any) -> None:
    model, kept = trial.trained
    resumed = trial.attach()
    groups = trial.method.parameter_groups(resumed)
    check_optimizer(kept.half.part("optimizer").tensors, dict(resumed.named_parameters()), groups)  # or it is skipped
    trial.fit(resumed, start=kept.half)
    expected, found = trial.method.state(model), trial.method.state(resumed)
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(expected[name], found[name])]
    assert torch.equal(trial.logits(resumed), trial.logits(model))


@pytest.mark.usefixtures("_trains")
def test_the_optimizers_memory_is_that_of_the_catalogue(trial: Any) -> None:
    """Measured here from a real first step, and there from shapes alone."""
    model = copy.deepcopy(trial.untrained)
    training, step = trial.training(model)
    step(trial.batch(0))
    kept = [value for values in training.optimizer.state.values() for value in values.values() if value.ndim]
    kept += [buffer for name, buffer in model.named_buffers() if name.endswith(".projector")]
    measured = sum(value.numel() for value in kept)
    with torch.device("meta"):
        bare = type(trial.plain)(trial.plain.config)
    found = size_of(trial.method, bare, trial.config.optimizer).optimizer_elements
    formula = FORMULAS.get(trial.method_name)
    assert found == (pytest.approx(measured, rel=0.1) if formula is shared_out else measured)


@pytest.mark.usefixtures("_trains")
def test_gradient_checkpointing_leaves_gradients_unchanged(trial: Any) -> None:
    model = copy.deepcopy(trial.untrained)
    expected = trial.gradients(model)
    with recomputed(model):
        assert_same_gradients(trial, trial.gradients(model), expected)


@pytest.mark.usefixtures("_trains")
@pytest.mark.parametrize("changes", [{}, WIDE], ids=["", "all-linear"])
def test_loading_weights_block_by_block_leaves_gradients_and_training_unchanged(
    trial: Any, changes: dict[str, Any]
) -> None:
    if not all(hasattr(trial.method, name) for name in changes):
        pytest.skip("declared: chooses its layers itself")
    assert_trains_the_same_offloaded(replace(trial, changes=changes) if changes else trial)


def in_words(changes: dict[str, Any]) -> str:
    return "-".join([changes["method_name"], *map(str, changes["changes"].values())])


@pytest.mark.parametrize("changes", VARIANTS, ids=in_words)
def test_so_it_does_with_other_settings(make_trial: Callable[..., Any], changes: dict[str, Any]) -> None:
    assert_trains_the_same_offloaded(replace(make_trial("rosa", "tiny_gpt2", "fair"), **changes))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes",
    [
        *({"method_name": name, "changes": it} for name in METHODS for it in ({}, WIDE)),
        *(it for it in VARIANTS if "stagger" not in it["changes"]),
    ],
    ids=in_words,
)
def test_so_it_does_on_a_gpu(make_trial: Callable[..., Any], changes: dict[str, Any]) -> None:
    """Not ``stagger``: it may draw a null vector of the residual. A is then a rounding error, which Adam amplifies."""
    trial = replace(make_trial("rosa", "tiny_roberta", "fair", device=torch.device("cuda")), **changes)
    narrow = replace(trial, changes={})
    if narrow.refusal is not None or not narrow.method.trains:
        pytest.skip("refused, or nothing trains")
    if not all(hasattr(narrow.method, name) for name in trial.changes):
        pytest.skip("declared: chooses its layers itself")
    assert_trains_the_same_offloaded(trial)


def assert_trains_the_same_offloaded(trial: Any) -> None:
    """From the start and resumed, to the bit on the CPU. On a GPU, where singular vectors may turn, by the answers."""
    model, resumed = (copy.deepcopy(trial.untrained) for _ in range(2))
    expected, before = trial.gradients(model), {name: tensor.clone() for name, tensor in state(model).items()}
    with offloaded(model, trial.method, trial.device) as loader, recomputed(model):
        assert any(loader.blocks)
        found = trial.gradients(model)
        assert_same_gradients(trial, {name: gradient.to(trial.device) for name, gradient in found.items()}, expected)
    assert not different(before, state(model))
    trained, kept = trial.trained
    assert different(before, state(trained))
    with offloaded(model, trial.method, trial.device), recomputed(model):
        half = trial.fit(model).half
    with offloaded(resumed, trial.method, trial.device), recomputed(resumed):
        trial.fit(resumed, start=half)
    for same in (model, resumed):
        assert_close(trial.logits(same), trial.logits(trained), 1e3 * trial.atol)
        assert trial.device.type == "cuda" or not different(state(same), state(trained))
    assert trial.device.type == "cuda" or not different(half.tensors, kept.half.tensors)


@pytest.mark.usefixtures("_trains")
def test_layers_that_are_computed_together_leave_gradients_unchanged(trial: Any) -> None:
    model = copy.deepcopy(trial.untrained)
    expected = trial.gradients(model)
    with joined(model, trial.batch(7)) as joins, materialised(model, joins=joins):
        assert_same_gradients(trial, trial.gradients(model), expected)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_cast_once_are_cast_again_after_they_change(
    make_trial: Callable[..., Any], method: str, device: str
) -> None:
    """After steps that train weights, write into them, or freeze again what has trained."""
    trial = make_trial(method, "tiny_roberta", "fair", wanted=torch.float32, device=torch.device(device))
    if trial.refusal is not None or not trial.method.trains:
        pytest.skip("refused, or nothing trains")
    model, autocast = trial.attach(), partial(torch.autocast, device, torch.bfloat16)
    with joined(model, trial.batch(7)) as joins, materialised(model, joins=joins):
        trial.fit(model, autocast=autocast)
        found = trial.gradients(model, autocast)
    expected = trial.gradients(model, autocast)
    assert found.keys() == expected.keys()
    largest = max(gradient.norm() for gradient in expected.values())  # rounding: up to 0.009 of it here
    assert not [name for name, gradient in expected.items() if (found[name] - gradient).norm() > 0.03 * largest]


class Places(Observer):
    """Notes what a captured step reads or writes that has moved since, or trains now or no longer."""

    def __init__(self) -> None:
        self.before: dict[str, Any] | None = None
        self.moved: set[str] = set()

    def on_method_change(self, training: Training, changed: Changed) -> None:  # noqa: ARG002 - a hook point
        if changed.recapture:
            self.before = None

    def on_step_end(self, training: Training) -> None:
        model, optimizer = training.model, training.optimizer
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers()), **training.method.state(model)}
        places: dict[str, Any] = {name: (it.data_ptr(), it.requires_grad) for name, it in tensors.items()}
        for name, parameter in model.named_parameters():
            state = optimizer.state.get(parameter, {})
            places |= {f"{key} of {name}": it.data_ptr() for key, it in state.items() if isinstance(it, Tensor)}
        for group in optimizer.param_groups:
            lists = {key: value for key, value in group.items() if isinstance(value, list)}
            places |= {f"{key}[{n}]": id(it) for key, value in lists.items() for n, it in enumerate(value)}
        if self.before is not None:
            self.moved |= {name for name, place in self.before.items() if places.get(name) != place}
        self.before = places


@pytest.mark.parametrize("method", METHODS)
def test_nothing_that_a_captured_step_uses_moves_unless_graphs_are_captured_again(
    make_trial: Callable[..., Any], method: str
) -> None:
    trial = make_trial(method, "tiny_roberta", "fair", wanted=torch.float32)
    if trial.refusal is not None or not (trial.method.trains and trial.method.supports_graphs):
        pytest.skip("refused, nothing trains, or its steps are not captured")
    model, places = trial.attach(), Places()
    with joined(model, trial.batch(7)) as joins, materialised(model, joins=joins):
        trial.fit(model, observers=[places])
    assert places.before and not places.moved


@pytest.mark.usefixtures("_trains")
def test_training_works_in_bf16_autocast(trial: Any) -> None:
    model = copy.deepcopy(trial.untrained).float()
    expected = trained_names(model)
    found = trial.gradients(model, partial(torch.autocast, "cpu", torch.bfloat16))
    assert set(found) == expected
    assert not [name for name, gradient in found.items() if not gradient.isfinite().all()]
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}

    # Without dropout, whose numbers depend on the type, they differ by rounding: by up to 0.13 of a gradient here.
    exact = trial.gradients(model, training=False)
    rounded = trial.gradients(model, partial(torch.autocast, "cpu", torch.bfloat16), training=False)
    largest = max(gradient.norm() for gradient in exact.values())
    seen = {name for name, gradient in exact.items() if gradient.norm() > 1e-3 * largest}
    assert not [name for name in seen if (rounded[name] - exact[name]).norm() > 0.5 * exact[name].norm()]


# Merging


def test_merging_gives_a_plain_model_with_the_same_function_or_changes_nothing(trial: Any) -> None:
    (model, returned), trained, plain = trial.merged, trial.trained[0], trial.plain
    expected = trial.logits(trained)
    assert returned is trial.method.mergeable
    # Otherwise keeping the function would prove nothing.
    assert not torch.allclose(expected, trial.logits(plain), rtol=0, atol=1e-3)
    assert_close(trial.logits(model), expected, trial.atol)
    if not returned:
        before = state(trained)
        assert not [name for name, tensor in state(model).items() if not torch.equal(tensor, before[name])]
        return
    assert not [name for name, module in model.named_modules() if isinstance(module, Adapter)]
    assert [(name, type(module)) for name, module in model.named_modules()] == [
        (name, type(module)) for name, module in plain.named_modules()
    ]
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in plain.state_dict().items()
    }


# Saving


@pytest.mark.slow
@pytest.mark.parametrize("models", [
    ("tiny_gpt2", "tiny_roberta"),
    *(pytest.param((name,), marks=pytest.mark.long) for name in ("tiny_roberta", "tiny_llama")),
], ids=" or ".join)  # fmt: skip
def test_a_trained_model_answers_the_same_in_a_fresh_process(
    make_trial: Callable[..., Any], warm_python: list[str], tmp_path: Path, models: tuple[str, ...]
) -> None:
    """A merged model is loaded by transformers. For the others the base model gets the method and its saved state.

    Each method is on the first of the models that it serves.
    """
    expected = {}
    for name in METHODS:
        trials = (make_trial(name, model, "fair", wanted=torch.float32) for model in models)
        if (trial := next((trial for trial in trials if trial.refusal is None), None)) is None:
            continue
        folder = tmp_path / name
        folder.mkdir()
        trained, (merged, is_plain) = trial.trained[0], trial.merged
        expected[name] = trial.logits(trained)
        if is_plain:
            trial.method.save(merged, folder)
        else:
            trial.plain.save_pretrained(folder)
            kept = {key: tensor.contiguous().clone() for key, tensor in trial.method.state(trained).items()}
            save_file(kept, folder / "state.safetensors")
        save_file(trial.batch(7), folder / "batch.safetensors")
        job = {"overrides": trial.overrides, "attach": not is_plain, "seed": trial.config.seed}
        (folder / "job.json").write_text(json.dumps(job))
    program = Path(__file__).with_name("answers.py")
    subprocess.run([*warm_python, program, tmp_path], check=True, capture_output=True, text=True)
    assert expected
    for name, logits in expected.items():
        assert_close(load_file(tmp_path / name / "answers.safetensors")["logits"], logits, 2e-5)


# With a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("cell", QUICK, ids="-".join)
def test_captured_steps_of_joined_layers_equal_eager_ones_of_plain_layers(
    make_trial: Callable[..., Any], cell: tuple[str, str, str]
) -> None:
    gpu = torch.device("cuda")

    def learn(choice: str, *, as_in_a_run: bool) -> tuple[list[float], dict[str, Tensor]]:
        trial = make_trial(*cell, wanted=torch.float32, device=gpu)
        if trial.refusal is not None:
            pytest.skip(f"refused: {trial.refusal}")
        if not trial.method.trains or not trial.method.supports_graphs:
            pytest.skip("declared: its steps cannot be captured")
        model = trial.attach().train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        training, step = trial.training(model)
        losses = []
        torch.manual_seed(5)  # for methods whose steps draw noise
        with (
            joined(model, trial.batch(7) if as_in_a_run else None) as joins,
            materialised(model, joins=joins) if as_in_a_run else nullcontext(),
            replaying(gpu, choice) as replay,
        ):
            replayed = replay(step)
            for number in range(6):
                training.set_lr(1e-2 / (1 + number))
                losses.append(replayed(trial.batch(number)))
            assert choice == "never" or replayed is not eager
            return torch.stack(losses).tolist(), {name: t.clone() for name, t in trial.method.state(model).items()}

    losses, expected = learn("never", as_in_a_run=False)
    captured, found = learn("always", as_in_a_run=True)
    assert captured == pytest.approx(losses, rel=1e-4)
    # The gradient of a key's bias is rounding alone, of which Adam makes steps. A weight here can move by 0.02.
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=5e-4)
