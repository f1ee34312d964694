import gc
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.fused.stacked import materialised
from rosa_bench.training.cuda_graphs import Replayed, detect_host_sync, eager, replaying
from rosa_bench.training.evaluation import Forward, Loss
from rosa_bench.training.loop import optimisation
from rosa_bench.training.state import Recipe, Training

CPU, GPU = torch.device("cpu"), torch.device("cuda")
CHOICES = ["auto", "always", "never"]
needs_gpu = pytest.mark.gpu
Batch = dict[str, Tensor]


def batch(number: int, *, rows: int = 4, length: int = 9, padded: bool = True, device: torch.device = GPU) -> Batch:
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(5, 261, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    labels = torch.randint(2, (rows,), generator=generator)
    whole = {"input_ids": ids, "labels": labels, **({"attention_mask": mask} if padded else {})}
    return {name: tensor.to(device) for name, tensor in whole.items()}


# Without a GPU


@pytest.mark.parametrize("choice", CHOICES)
def test_on_the_cpu_a_step_is_returned_unchanged(choice: str) -> None:
    def step(batch: Batch) -> Tensor:
        return batch["labels"].sum()

    assert eager(step) is step
    with replaying(CPU, choice) as replay:
        assert replay(step) is step


@pytest.mark.parametrize("choice", CHOICES)
def test_on_the_cpu_errors_pass_through(choice: str) -> None:
    with pytest.raises(KeyError), replaying(CPU, choice):
        raise KeyError


def test_equal_evaluations_of_a_model_are_equal_steps(tiny_model: Callable[..., PreTrainedModel]) -> None:
    # This lets each epoch's evaluation reuse the graphs of the previous one.
    one, other = tiny_model("tiny_roberta"), tiny_model("tiny_roberta")
    for kind in (Forward, Loss):
        assert kind(one, nullcontext) == kind(one, nullcontext)
        assert len({kind(one, nullcontext), kind(one, nullcontext)}) == 1
        assert kind(one, nullcontext) != kind(other, nullcontext)
        assert kind(one, nullcontext) != kind(one, torch.enable_grad)
    different: tuple[object, object] = (Forward(one, nullcontext), Loss(one, nullcontext))
    assert different[0] != different[1]


# With a GPU


@pytest.fixture
def training(
    compose: Callable[..., RunConfig], tiny_model: Callable[..., PreTrainedModel]
) -> Callable[..., tuple[Training, Any, Callable[[Batch], Tensor]]]:
    """A small RoBERTa on the GPU with dropout and ROSA attached, with its training, method and step."""

    def make(**changes: Any) -> tuple[Training, Any, Callable[[Batch], Tensor]]:
        method = compose("task=grammar", "model=tiny_roberta", "method=rosa", "rank=2").method
        model = tiny_model("tiny_roberta").to(GPU).train()  # pyrefly: ignore[bad-argument-type]
        method.attach(model)
        optimizer = replace(
            compose("task=grammar", "model=tiny_roberta").optimizer, weight_decay=0.1,
            clip_norm=changes.pop("clip_norm", 1.0),
        )  # fmt: skip
        recipe = Recipe(
            lr=1e-2, epochs=1, warmup_steps=0, optimizer=optimizer, reset="factors", **{"accumulate": 1, **changes}
        )
        made = Training(model, method, recipe, steps_per_epoch=100, device=GPU)
        return made, method, optimisation(made, nullcontext)

    return make


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def learn(
    made: tuple[Training, Any, Callable[[Batch], Tensor]], choice: str, kinds: list[dict[str, Any]], steps: int
) -> tuple[list[float], dict[str, Tensor], Any]:
    """Train on these kinds of batches in turn, with a resample halfway. Return the losses and the results."""
    training, method, step = made
    torch.manual_seed(5)
    losses = []
    with replaying(GPU, choice) as replay, materialised(training.model):
        replayed = replay(step)
        for number in range(steps):
            if number == steps // 2:
                method.resample(training.model, number)
            training.set_lr(1e-2 / (1 + number))
            losses.append(replayed(batch(number, **kinds[number % len(kinds)])))
        return torch.stack(losses).tolist(), state(training.model), replayed


KINDS: dict[str, list[dict[str, Any]]] = {
    "one": [{}],
    "several": [{}, {"padded": False}, {"length": 12}],
    "last smaller": [{}, {}, {"rows": 3}],
}


@needs_gpu
@pytest.mark.parametrize(("kinds", "choice", "changes"), [
    ("one", "always", {}), ("one", "auto", {}), ("several", "auto", {}), ("last smaller", "auto", {}),
    ("several", "auto", {"clip_norm": None}), ("several", "auto", {"accumulate": 2}),
], ids=str)  # fmt: skip
def test_replayed_training_equals_eager_training(
    training: Callable[..., Any], kinds: str, choice: str, changes: dict[str, Any]
) -> None:
    steps = 6 * len(KINDS[kinds])
    losses, weights, _ = learn(training(**changes), "never", KINDS[kinds], steps)
    found_losses, found, replayed = learn(training(**changes), choice, KINDS[kinds], steps)
    assert isinstance(replayed, Replayed)
    captured = [recorded for recorded in replayed.recorded.values() if recorded is not None]
    assert len(captured) == len({str(kind) for kind in KINDS[kinds]})
    assert len(set(losses)) == steps  # dropout, batches and learning rates differ from step to step
    assert found_losses == pytest.approx(losses, rel=1e-4)
    # AdamW amplifies the noise in gradients that should be zero, such as those of key biases.
    for name, tensor in weights.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=2e-3)


@needs_gpu
def test_the_next_replay_does_not_overwrite_returned_outputs() -> None:
    weight = torch.ones((), device=GPU)
    with replaying(GPU, "always") as replay:
        step = replay(lambda batch: batch["x"] * weight)
        pair = replay(lambda batch: (batch["x"] + weight, batch["x"] - weight))
        found = [step({"x": torch.full((3,), float(number), device=GPU)}) for number in range(5)]
        pairs = [pair({"x": torch.full((3,), float(number), device=GPU)}) for number in range(5)]
    for number in range(5):
        assert torch.stack([found[number]]).tolist() == [[number] * 3]
        assert [each.tolist() for each in pairs[number]] == [[number + 1] * 3, [number - 1] * 3]


@needs_gpu
def test_the_first_run_of_each_kind_is_eager_and_the_second_is_captured() -> None:
    calls: list[tuple[int, ...]] = []

    def step(batch: Batch) -> Tensor:
        calls.append(tuple(batch["x"].shape))
        return batch["x"].sum()

    with replaying(GPU, "auto") as replay:
        replayed = replay(step)
        for number in range(4):
            for size in (2, 3):
                assert replayed({"x": torch.full((size,), float(number), device=GPU)}).item() == number * size
    assert sorted(calls) == [(2,), (2,), (3,), (3,)]


@needs_gpu
def test_batches_that_differ_in_type_names_or_shape_are_different_kinds() -> None:
    x = torch.ones(2, device=GPU)
    kinds: list[Batch] = [{"x": x}, {"x": x.double()}, {"y": x}, {"x": x[:1]}, {"x": x, "y": x}]
    with replaying(GPU, "always") as replay:
        replayed = replay(lambda batch: torch.stack([tensor.sum() for tensor in batch.values()]).sum())
        expected = [
            (2, torch.float32), (2, torch.float64), (2, torch.float32), (1, torch.float32), (4, torch.float32),
        ]  # fmt: skip
        for _ in range(3):
            assert [(value.item(), value.dtype) for value in map(replayed, kinds)] == expected
        assert isinstance(replayed, Replayed)
        assert len(replayed.recorded) == len(kinds)


@needs_gpu
def test_a_step_that_makes_the_host_wait_runs_eagerly_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    def step(batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        return batch["x"] * batch["x"].sum().item()

    with caplog.at_level(logging.WARNING, logger="rosa_bench"), replaying(GPU, "auto") as replay:
        replayed = replay(step)
        found = [replayed({"x": torch.full((2,), float(number), device=GPU)}).tolist() for number in range(5)]
    assert found == [[2.0 * number**2] * 2 for number in range(5)]
    assert calls == 5
    [message] = [record.getMessage() for record in caplog.records]
    assert "host wait" in message and "test_cuda_graphs.py:" in message


FAILING = """
import torch
from rosa_bench.training.cuda_graphs import replaying
x = torch.ones(2, device="cuda")
with replaying(x.device, "always") as replay:
    step = replay(lambda batch: batch["x"] * batch["x"].sum().item())
    print(step({"x": x}).tolist(), flush=True)
    step({"x": x})
"""


@needs_gpu
def test_a_step_that_cannot_be_captured_raises_with_advice() -> None:
    # Use a separate process, because torch is left in the middle of a capture.
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.strip() == "[2.0, 2.0]"
    last = [line for line in done.stderr.splitlines() if line.startswith("RuntimeError")][-1]
    assert "cuda_graphs=never" in last


@needs_gpu
def test_equal_steps_share_their_graphs(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model, other = (tiny_model("tiny_roberta").to(GPU).eval() for _ in range(2))  # pyrefly: ignore[bad-argument-type]
    data = batch(1)
    with torch.inference_mode(), replaying(GPU, "always") as replay:
        expected = Forward(model, nullcontext)(data)
        first = replay(Forward(model, nullcontext))
        for _ in range(2):
            first(data)
        found = first(data)
        again = replay(Forward(model, nullcontext))
        assert again is first
        assert replay(Forward(other, nullcontext)) is not first
        assert replay(Loss(model, nullcontext)) is not first
        assert isinstance(found, tuple)
        for one, two in zip(found, expected, strict=True):
            torch.testing.assert_close(one, two)
        # A graph reads the weights in place, so it sees what training changed in between.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        changed = Forward(model, nullcontext)(data)
        assert not torch.allclose(changed[0], expected[0], rtol=1e-3)
        torch.testing.assert_close(again(data)[0], changed[0])


@needs_gpu
@pytest.mark.parametrize("collects", [True, False])
def test_garbage_collection_is_restored(collects: bool) -> None:
    before = gc.isenabled()
    (gc.enable if collects else gc.disable)()
    try:
        with replaying(GPU, "always") as replay:
            step = replay(lambda batch: batch["x"] + 1)
            for _ in range(3):
                step({"x": torch.ones(2, device=GPU)})
                assert gc.isenabled() == collects
    finally:
        (gc.enable if before else gc.disable)()


@needs_gpu
def test_other_warnings_pass_through_and_sync_warnings_do_not() -> None:
    x = torch.ones(2, device=GPU)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with detect_host_sync() as waits:
            warnings.warn("something else", UserWarning, stacklevel=1)
            x.sum().item()
        with detect_host_sync() as none:
            x.sum()
    assert len(waits) == 1 and not none
    assert [str(warning.message) for warning in caught] == ["something else"]
    assert torch.cuda.get_sync_debug_mode() == 0


@needs_gpu
def test_work_outside_the_block_is_ordered_with_work_inside() -> None:
    weight = torch.zeros(1 << 22, device=GPU)

    def step(batch: Batch) -> Tensor:
        for _ in range(20):
            weight.add_(batch["x"])
        return weight[:1].clone()

    weight.add_(1)  # on the stream that is current before the block
    with replaying(GPU, "always") as replay:
        replayed = replay(step)
        found = [replayed({"x": torch.ones((), device=GPU)}) for _ in range(4)]
    after = weight[-1:] + 0
    assert torch.cat([*found, after]).tolist() == [21, 41, 61, 81, 81]
