"""The diagonal of the Fisher information of a model's weights."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rosa_bench.layers.structure.evaluating import evaluating

Row = Mapping[str, Tensor]  # a batch of one example


def single_rows(batches: Iterable[Row], count: int) -> Iterator[Row]:
    """Yield the first ``count`` examples of the batches, each as a batch of its own.

    Raises ValueError if a batch has no labels.
    """
    rows = (
        {name: tensor[place : place + 1] for name, tensor in batch.items()}
        for batch in batches
        for place in range(len(_labels(batch)))
    )
    return islice(rows, count)


def _labels(batch: Row) -> Tensor:
    if "labels" not in batch:
        raise ValueError("a batch has no labels")
    return batch["labels"]


def fisher_information(
    model: nn.Module, weights: Sequence[nn.Parameter], rows: Iterable[Row], *, generator: torch.Generator | None = None
) -> list[Tensor]:
    """Return the mean over examples of the squared gradient of ``log p(labels | inputs)``, for each entry of weights.

    Without ``generator`` the labels are those of the rows: the empirical Fisher information. With it, one label for
    each is drawn from the model's own distribution, and a language model's next tokens are drawn after the row's own
    text. A regression's output is the mean of a normal distribution with variance 1. Dropout is off, so the state of
    other generators does not change. Holds two numbers for each entry, and one example's activations. Raises ValueError
    if there are no rows, or if a gradient is not finite.

    Source: Sung et al., "Training Neural Networks with Fixed Sparse Masks", arXiv 2111.09839, equations (5) and (6).
    """
    sums, count = [torch.zeros_like(weight) for weight in weights], 0
    # The other kernels may add in any order. A resumed run must find as many entries of each weight as before.
    with evaluating(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        for row in rows:
            count += 1
            labelled = row if generator is None else with_drawn_labels(model, row, generator)
            gradients = torch.autograd.grad(negative_log_likelihood(model, labelled), weights, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total.addcmul_(gradient, gradient)
    if not count:
        raise ValueError("there are no training rows")
    if not all(total.isfinite().all() for total in sums):
        raise ValueError("the gradient of a training row contains NaN or Inf")
    return [total.div_(count) for total in sums]


def negative_log_likelihood(model: nn.Module, row: Row) -> Tensor:
    """Return ``-log p(labels | inputs)`` of one example, up to a constant. A text's is the sum over its tokens."""
    labels, loss = row["labels"], model(**row).loss  # the mean over the labels
    if labels.is_floating_point():
        return loss / 2
    return loss * is_scored(labels[:, 1:]).sum() if labels.ndim == 2 else loss


def is_scored(labels: Tensor) -> Tensor:
    """Return which labels are part of the loss, as booleans. The losses of transformers leave out those of -100."""
    return labels >= 0


@torch.no_grad()
def with_drawn_labels(model: nn.Module, row: Row, generator: torch.Generator) -> Row:
    """Return the row with labels that are drawn from the model, on the CPU. Labels outside the loss stay."""
    labels, logits = row["labels"], model(**row).logits
    if labels.is_floating_point():
        noise = torch.randn(labels.shape, generator=generator).to(labels)
        return {**row, "labels": logits.reshape(labels.shape).to(labels) + noise}
    below = logits.double().softmax(-1).cumsum(-1)[..., :-1]  # (1, [tokens,] classes - 1)
    level = torch.rand(below.shape[:-1], generator=generator, dtype=torch.float64).to(below.device)
    drawn = (below <= level.unsqueeze(-1)).sum(-1)
    if labels.ndim == 2:  # the logits at a token are those of the next one
        drawn = torch.cat([labels[:, :1], drawn[:, :-1]], 1)
    return {**row, "labels": torch.where(is_scored(labels), drawn, labels)}
