from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, matthews_corrcoef
from torch import Tensor, nn

from rosa_bench.data.batches import IGNORED, Batches, encode
from rosa_bench.data.rows import Row
from rosa_bench.metrics.load import load as load_metric
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.system.resources.device import autocast
from rosa_bench.training.evaluation import Predictions, mean_loss, predict, score

CPU = torch.device("cpu")


class FirstLetter(nn.Module):
    """Outputs the code of an example's first letter, and a constant. The loss is the mean label."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.calls = 0

    def forward(self, input_ids: Tensor, labels: Tensor, **_inputs: Tensor) -> SimpleNamespace:
        self.calls += 1
        letters = input_ids[:, 1].float()
        logits = torch.stack([self.dropout(letters), torch.full_like(letters, 80.5)], dim=-1)
        return SimpleNamespace(logits=logits, loss=labels.float().mean())


def batches(count: int, *, size: int, seed: int | None = None) -> Batches:
    """Examples whose label determines their first letter."""
    rows = [Row((f"{chr(97 + number)}{'x' * (number * 5 % 7)}",), number) for number in range(count)]
    return encode(rows, byte_tokenizer(max_length=64), max_length=64, batch_size=size, seed=seed)


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize(("count", "size"), [(10, 3), (10, 10), (1, 4), (10, 64)])
def test_every_example_is_predicted_once_with_its_label(count: int, size: int, seed: int | None) -> None:
    model = FirstLetter().train()
    found = predict(model, batches(count, size=size, seed=seed), device=CPU, autocast=nullcontext)
    assert sorted(found.labels.tolist()) == list(range(count))
    first = byte_tokenizer(max_length=8)("a")["input_ids"][1]
    assert torch.equal(found.outputs[:, 0], found.labels.float() + first)  # in order, without dropout
    assert found.outputs.shape == (count, 2)
    assert found.loss == pytest.approx((count - 1) / 2)  # the mean over examples, for any batches
    assert model.calls == -(-count // size)
    assert not model.training


class MeanLabel(nn.Module):
    """The loss is the mean of the labels that count, after dropout."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dropout, self.dtype = nn.Dropout(0.9), dtype

    def forward(self, labels: Tensor) -> SimpleNamespace:
        loss = self.dropout(labels[labels != IGNORED].to(self.dtype)).mean()
        return SimpleNamespace(logits=labels.float(), loss=loss)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_mean_loss_weighs_each_label_that_counts_alike_without_dropout(size: int) -> None:
    labels = torch.tensor([[1, 2, 3], [7, IGNORED, IGNORED], [4, 4, IGNORED], [9, IGNORED, IGNORED], [0, 5, 6]])
    model = MeanLabel().train()
    data = Batches({"labels": labels}, examples=5, batch_size=size)
    found = mean_loss(model, data, device=CPU, autocast=nullcontext)
    assert found == pytest.approx(labels[labels != IGNORED].double().mean().item(), rel=1e-6)
    assert not model.training


def test_losses_add_up_in_a_wider_type_than_the_models() -> None:
    labels = torch.full((300, 1), 3)  # 3 times 257 is not a number of bfloat16
    data = Batches({"labels": labels}, examples=300, batch_size=257)
    model = MeanLabel(torch.bfloat16)
    assert mean_loss(model, data, device=CPU, autocast=nullcontext) == 3
    assert predict(model, data, device=CPU, autocast=nullcontext).loss == 3


def test_outputs_need_no_gradient() -> None:
    model = FirstLetter()
    model.weight = nn.Parameter(torch.ones(()))
    assert not predict(model, batches(3, size=2), device=CPU, autocast=nullcontext).outputs.requires_grad


def test_outputs_are_float32_under_any_precision(tiny_model) -> None:
    model = tiny_model("tiny_bert")
    data = encode(
        [Row((text,), label) for label, text in enumerate(("one", "another"))],
        byte_tokenizer(max_length=64), max_length=64, batch_size=2,
    )  # fmt: skip
    exact, rounded = (
        predict(model, data, device=CPU, autocast=autocast(name, CPU)) for name in ("float32", "bfloat16")
    )
    assert exact.outputs.dtype == rounded.outputs.dtype == torch.float32
    assert not torch.equal(exact.outputs, rounded.outputs)
    torch.testing.assert_close(exact.outputs, rounded.outputs, atol=0.02, rtol=0)
    direct = torch.nn.functional.cross_entropy(exact.outputs, exact.labels)
    assert exact.loss == pytest.approx(direct.item(), abs=1e-6)


# Scores


def test_the_largest_of_several_outputs_is_the_prediction() -> None:
    outputs = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.1, -1.0], [-3.0, -2.0, -1.0], [0.0, 5.0, 1.0]])
    truth = torch.tensor([0, 1, 1, 1])
    figures = score(Predictions(outputs, truth, 0.25), load_metric("accuracy"))
    spread = np.std([0, 1, 2, 1]) / np.std([0, 1, 1, 1])
    assert figures == pytest.approx({"accuracy": accuracy_score(truth, [0, 1, 2, 1]), "loss": 0.25, "spread": spread})
    two = Predictions(outputs[:, :2], truth, 0.25)
    expected = matthews_corrcoef(truth, [0, 1, 1, 1])
    assert score(two, load_metric("matthews"))["matthews_correlation"] == pytest.approx(expected)


@pytest.mark.parametrize("count", [2, 5])
def test_a_single_output_is_the_prediction(count: int) -> None:
    truth = torch.arange(count).float()
    outputs = (3 - 2 * truth).unsqueeze(-1)  # (examples, 1)
    figures = score(Predictions(outputs, truth, 1.5), load_metric("correlation"))
    assert figures == pytest.approx({"pearson": -1.0, "spearman": -1.0, "loss": 1.5, "spread": 2.0})


@pytest.mark.parametrize(("outputs", "metric"), [([[0.0, 1.0]] * 3, "matthews"), ([[2.5]] * 3, "correlation")])
@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_identical_predictions_have_zero_spread(outputs: list[list[float]], metric: str) -> None:
    truth = torch.tensor([0, 1, 1])
    assert score(Predictions(torch.tensor(outputs), truth, 0.5), load_metric(metric))["spread"] == 0


@pytest.mark.parametrize("outputs", [[[0.0, 1.0]] * 3, [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
@pytest.mark.parametrize("count", [1, 3])
def test_labels_of_one_class_have_no_spread(outputs: list[list[float]], count: int) -> None:
    figures = score(Predictions(torch.tensor(outputs[:count]), torch.ones(count).long(), 0.5), load_metric("accuracy"))
    right = sum(one[1] > one[0] for one in outputs[:count])
    assert figures == {"accuracy": right / count, "loss": 0.5}


@pytest.mark.parametrize("value", [3.3, 0.1, 1e-9])
def test_equal_values_have_no_spread(value: float) -> None:
    truth = torch.full((7,), value)
    assert "spread" not in score(Predictions(torch.rand(7, 1), truth, 0.5), load_metric("correlation"))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("width", [1, 2])
def test_outputs_that_are_not_finite_have_no_score(wrong: float, width: int) -> None:
    outputs = torch.zeros(3, width)
    outputs[1, 0] = wrong
    figures = score(
        Predictions(outputs, torch.tensor([0, 1, 1]), 0.5), load_metric("correlation" if width == 1 else "accuracy")
    )
    assert list(figures) == ["loss"]
    assert figures["loss"] != figures["loss"]
