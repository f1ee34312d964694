"""Prepare a synthetic regression with a known solution, and compute the best error for each rank."""

import copy
import hashlib

import torch
from torch import Tensor

from rosa_bench.data.batches import TensorBatches
from rosa_bench.data.rows import DataInfo, held_out_size, limited
from rosa_bench.data.source import describe_source
from rosa_bench.models.perceptron import PerceptronForRegression, make_perceptron
from rosa_bench.models.spec import Perceptron
from rosa_bench.system.errors import UserError
from rosa_bench.system.seeds import generator, set_seed
from rosa_bench.tasks.context import Context
from rosa_bench.tasks.prepared import EVALUATION_BATCHES, OnBatches, PreparedTask
from rosa_bench.tasks.regression.task import SyntheticTask
from rosa_bench.tasks.regression.theory import best_errors, best_update
from rosa_bench.training.evaluation import Predictions
from rosa_bench.training.state import Scores


def shapes(task: SyntheticTask, model: Perceptron) -> PerceptronForRegression:
    """Return the networks without their weights, as `Task.shapes` does."""
    with torch.device("meta"):
        return make_perceptron(model, inputs=task.inputs, outputs=task.outputs, replicates=1)


def prepare(task: SyntheticTask, context: Context) -> PreparedTask:
    """Draw the networks and rows of a synthetic regression. Raises `UserError` as `Task.prepare` does."""
    set_seed(context.seed)
    assert isinstance(context.model, Perceptron)  # checked by the task
    sizes = {"inputs": task.inputs, "outputs": task.outputs, "replicates": task.replicates}
    model = make_perceptron(context.model, **sizes)
    draws = generator(context.seed, "regression")
    target = make_target(model, task.true_rank, draws)

    drawn = limited(context.limit_train, task.train_rows, key="limit_train", what="train rows")
    held_out = held_out_size(drawn, context.held_out_rows, context.held_out_max)
    rows = {
        "train": drawn - held_out,
        "held_out": held_out,
        "validation": limited(context.limit_eval, task.validation_rows, key="limit_eval", what="validation rows"),
    }
    if not rows["train"]:
        raise UserError(
            f"task={task.name} has no train rows left after limit_train and the held-out rows; use a larger limit_train"
        )
    splits = {name: sample(target, count, draws) for name, count in rows.items()}

    def batches(name: str, *, size: int = 1, seed: int | None = None) -> TensorBatches:
        return TensorBatches(*splits[name], batch_size=size * context.batch_size, seed=seed).to(context.device)

    def evaluation(name: str) -> OnBatches:
        return OnBatches(batches(name, size=EVALUATION_BATCHES), context, mean_squared_errors)

    validation = evaluation("validation")
    return PreparedTask(
        model=model,
        train=batches("train", seed=context.seed),
        select=evaluation("held_out") if held_out else validation,
        selected_on="held_out" if held_out else "validation",
        report=validation if held_out else None,
        signature=f"mse|torch:{torch.__version__}",
        info=DataInfo(
            source=describe_source(task, None),
            synthetic=True,
            rows=rows,
            official_rows={"train": task.train_rows, "validation": task.validation_rows},
            subset=drawn < task.train_rows or rows["validation"] < task.validation_rows,
            fingerprint=fingerprint(splits),
            official=True,
        ),
        facts={} if context.model.hidden else {"best_of_rank": best_of_rank(model, splits)},
    )


@torch.no_grad()
def make_target(model: PerceptronForRegression, true_rank: int, generator: torch.Generator) -> PerceptronForRegression:
    """Return f*: a copy of the networks with a random matrix of rank ``true_rank`` added to each weight.

    The matrix is the product of two Gaussian matrices. Its entries have variance 1 / in, so inputs of variance 1 change
    the outputs with variance 1. The authors' scale is not known.
    """
    target = copy.deepcopy(model)
    for weight in target.parameters():  # (replicates, out, in)
        replicates, rows, columns = weight.shape
        left = torch.randn(replicates, rows, true_rank, generator=generator)
        right = torch.randn(replicates, true_rank, columns, generator=generator)
        weight.add_(left @ right / (true_rank * columns) ** 0.5)
    return target


@torch.no_grad()
def sample(target: PerceptronForRegression, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw x ~ N(0, I), (count, replicates, in), and compute y = f*(x), (count, replicates, out)."""
    config = target.config
    inputs = torch.randn(count, config.replicates, config.widths[0], generator=generator)
    return inputs, target(inputs).logits.contiguous()


def mean_squared_errors(predictions: Predictions) -> Scores:
    """Compute ``mse``, the mean over replicates, and the error of each replicate: ``mse.0``, ``mse.1``, ..."""
    each = (predictions.outputs - predictions.labels).square().mean((0, 2))  # (replicates)
    if not each.isfinite().all():
        return {"loss": float("nan")}
    by_replicate = {f"mse.{number}": value for number, value in enumerate(each.tolist())}
    return {"mse": each.mean().item(), "loss": predictions.loss, **by_replicate}


@torch.no_grad()
def best_of_rank(
    model: PerceptronForRegression, splits: dict[str, tuple[Tensor, Tensor]]
) -> dict[str, list[list[float]]]:
    """Return the mean squared errors of a linear network after the best update of rank 0, 1, ..., by replicate.

    ``train`` is LoRA's bound on the training rows (Theorem 2). ``validation`` is the error of the same update on dev.
    """
    layout = {name: [tensor.double().movedim(0, -2) for tensor in pair] for name, pair in splits.items()}
    (x, y), (dev_x, dev_y) = layout["train"], layout["validation"]  # (replicates, rows, in or out)
    [weight] = [parameter.double().mT for parameter in model.parameters()]  # (replicates, in, out), as in the paper
    bound = best_errors(x, weight, y) / y[0].numel()
    max_rank = bound.shape[-1] - 1
    a, b = best_update(x, weight, y, max_rank)  # its leading columns and rows are the best update of each smaller rank
    updated = (weight + a[..., :rank] @ b[..., :rank, :] for rank in range(max_rank + 1))
    dev = [(dev_x @ weights - dev_y).square().mean((-2, -1)) for weights in updated]
    return {"train": bound.tolist(), "validation": torch.stack(dev, -1).tolist()}


def fingerprint(splits: dict[str, tuple[Tensor, Tensor]]) -> str:
    """Return the SHA-256 of the drawn numbers."""
    digest = hashlib.sha256()
    for tensors in splits.values():
        for tensor in tensors:
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
