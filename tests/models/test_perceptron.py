from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn
from torch.nn import functional

from rosa_bench.config.schema import RunConfig
from rosa_bench.models.perceptron import PerceptronForRegression, make_perceptron
from rosa_bench.models.spec import Perceptron, Wheel
from rosa_bench.models.weights.source import locate
from rosa_bench.system.errors import UserError

Compose = Callable[..., RunConfig]
SpecOf = Callable[..., Perceptron]

INPUTS, OUTPUTS, REPLICATES, ROWS = 12, 5, 3, 20
SIZES = {"inputs": INPUTS, "outputs": OUTPUTS, "replicates": REPLICATES}
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
FORMS = [
    ("model=mlp1",),
    ("model=mlp2", "model.hidden=[8]"),
    ("model=mlp2", "model.hidden=[8,6]", "model.activation=tanh"),
    ("model=mlp2", "model.hidden=[8]", "model.activation=gelu"),
]


@pytest.fixture
def spec_of(compose: Compose) -> SpecOf:
    def spec(*overrides: str) -> Perceptron:
        model = compose("task=synthetic", "task.true_rank=1", *overrides).model
        assert isinstance(model, Perceptron)
        return model

    return spec


@pytest.fixture(params=FORMS, ids=" ".join)
def spec(request: pytest.FixtureRequest, spec_of: SpecOf) -> Perceptron:
    return spec_of(*request.param)


def references(model: PerceptronForRegression, spec: Perceptron) -> list[nn.Sequential]:
    """Each replicate as a network of PyTorch layers with the same weights."""
    found = []
    for replicate in range(model.config.replicates):
        modules: list[nn.Module] = []
        for weights in model.parameters():
            _, rows, columns = weights.shape
            layer = nn.Linear(columns, rows, bias=False)
            layer.weight = nn.Parameter(weights[replicate].detach().clone())
            modules += [*([ACTIVATIONS[spec.activation]()] if modules else []), layer]
        found.append(nn.Sequential(*modules))
    return found


def data(width: int) -> Tensor:
    return torch.randn(ROWS, REPLICATES, width)


def test_each_replicate_equals_a_sequential_network(spec: Perceptron) -> None:
    model, x, labels = make_perceptron(spec, **SIZES), data(INPUTS), data(OUTPUTS)
    result = model(inputs=x, labels=labels)
    alone = references(model, spec)
    expected = torch.stack([network(x[:, number]) for number, network in enumerate(alone)], 1)
    assert result.logits.shape == (ROWS, REPLICATES, OUTPUTS)
    torch.testing.assert_close(result.logits, expected)

    # The loss is the sum of the replicates' mean squared errors, so each has the gradient that it would have alone.
    losses = [functional.mse_loss(expected[:, number], labels[:, number]) for number in range(REPLICATES)]
    torch.testing.assert_close(result.loss, sum(losses))
    result.loss.backward()
    for number, (network, loss) in enumerate(zip(alone, losses, strict=True)):
        loss.backward(retain_graph=True)
        for weights, own in zip(model.parameters(), network.parameters(), strict=True):
            assert weights.grad is not None
            torch.testing.assert_close(weights.grad[number], own.grad)


def test_no_loss_without_labels(spec: Perceptron) -> None:
    assert make_perceptron(spec, **SIZES)(inputs=data(INPUTS)).loss is None


def test_shapes_are_those_of_the_weights(spec: Perceptron) -> None:
    model = make_perceptron(spec, **SIZES)
    assert [(REPLICATES, *shape) for shape in spec.shapes(INPUTS, OUTPUTS)] == [p.shape for p in model.parameters()]


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [([], [(5, 12)]), ([8], [(8, 12), (5, 8)]), ([8, 3], [(8, 12), (3, 8), (5, 3)])],
    ids=str,
)
def test_declared_shapes_are_out_in(spec_of: SpecOf, hidden: list[int], expected: list[tuple[int, int]]) -> None:
    assert spec_of(f"model.hidden={hidden}").shapes(12, 5) == expected


def test_weights_are_initialised_like_linear_layers(spec_of: SpecOf) -> None:
    model = make_perceptron(spec_of("model=mlp2"), inputs=100, outputs=32, replicates=4)
    for weights, columns in zip(model.parameters(), (100, 64), strict=True):
        bound = columns**-0.5
        assert weights.abs().max() <= bound
        for own in weights:
            assert kstest(own.detach().flatten().numpy(), "uniform", args=(-bound, 2 * bound)).pvalue > 1e-3
        assert len({own.sum().item() for own in weights}) == 4


def test_weights_are_a_function_of_the_global_seed(spec: Perceptron) -> None:
    def drawn(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return list(make_perceptron(spec, **SIZES).parameters())

    assert all(map(torch.equal, drawn(0), drawn(0)))
    assert not any(map(torch.equal, drawn(0), drawn(1)))


def test_a_saved_model_is_restored_exactly(spec: Perceptron, tmp_path: Path) -> None:
    model, x = make_perceptron(spec, **SIZES), data(INPUTS)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    torch.manual_seed(1)  # weights drawn while loading must be overwritten
    loaded = PerceptronForRegression.from_pretrained(tmp_path)
    assert (loaded.config.widths, loaded.config.activation, loaded.config.replicates) == (
        [INPUTS, *spec.hidden, OUTPUTS], spec.activation, REPLICATES,
    )  # fmt: skip
    with torch.inference_mode():
        assert torch.equal(loaded(inputs=x).logits, model.eval()(inputs=x).logits)


# The declaration


@pytest.mark.parametrize(("override", "words"), [
    ("model.path=somewhere", ["model.path", "mlp2 is initialised randomly"]),
    ("+model.hub=some/where", ["model.hub", "mlp2 is initialised randomly"]),
    ("model.activation=sigmoid", ["model.activation=sigmoid", "relu, tanh, gelu"]),
    ("model.hidden=[0]", ["model.hidden=0", "at least 1"]),
    ("model.hidden=[8,-1]", ["model.hidden=-1", "at least 1"]),
    ("model.hidden=8", ["model.hidden"]),
    ("model.hidden=[wide]", ["model.hidden", "wide"]),
    ("+model.width=8", ["model.width"]),
])  # fmt: skip
def test_invalid_declaration_error_is_one_line(compose: Compose, override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        compose("task=synthetic", "model=mlp2", override)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_wheel_is_an_error(spec: Perceptron) -> None:
    with pytest.raises(UserError, match=r"^model\.wheel is for pre-trained models"):
        replace(spec, wheel=Wheel(requirements=[], sha256=[], folder="x"))


def test_drawn_from_gives_the_architecture(spec: Perceptron) -> None:
    source = locate(spec)
    assert source.kind == "random"
    assert source.identity == {"config": {"hidden": spec.hidden, "activation": spec.activation}}
