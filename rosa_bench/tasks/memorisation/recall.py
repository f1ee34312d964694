"""Score what a model has memorised: whole numbers recalled, digits, and bits.

A number is recalled if each of its digits is the likeliest token after the right digits before it. That is the case
exactly if greedy decoding writes the whole number: up to its first mistake, it has written the right digits.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rosa_bench.data.batches import IGNORED, Batch, Batches, to_device
from rosa_bench.system.resources.device import Autocast
from rosa_bench.training.cuda_graphs import Replay, eager
from rosa_bench.training.evaluation import evaluated, gradients_off
from rosa_bench.training.state import Scores


@dataclass(frozen=True)
class CountDigits:
    """Compute a batch's summed loss in nats, and the number of right digits in each row.

    Instances with the same model are equal and share graphs.
    """

    model: nn.Module
    autocast: Autocast

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        with self.autocast():
            logits = self.model(**inputs).logits[:, :-1].float()
        labels = batch["labels"][:, 1:]  # the model predicts the label after each position
        right = logits.argmax(-1) == labels  # never where labels are `IGNORED`, which is no token
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return loss.double(), right.sum(-1)


def recall(
    model: nn.Module,
    batches: Batches,
    *,
    digits: int,
    device: torch.device,
    autocast: Autocast,
    replay: Replay = eager,
    parts: int = 1,
) -> Scores:
    """Return the scores of a model, without dropout, over numbers of ``digits`` digits.

    recall          fraction of the numbers that are right as a whole
    digit_accuracy  fraction of the digits that are right after the right digits before them
    bits_stored     information in all digits, less what the model still needs to encode them; not below 0
    loss            nats per digit

    If the rows are learned in several ``parts``, there is also the recall of each, named by `part_recall`.
    """
    model.eval()
    count = replay(CountDigits(model, autocast))
    total = torch.zeros((), dtype=torch.float64, device=device)
    right = []
    with gradients_off(model):
        for _, (loss, digits_right) in evaluated(batches, lambda batch: count(to_device(batch, device))):
            total += loss
            right.append(digits_right)
    return scores(total.item(), torch.cat(right).cpu(), digits=digits, parts=parts)


def part_recall(part: int) -> str:
    """Return the name of the recall of one part, counted from 1."""
    return f"recall_part_{part}"


def scores(loss: float, right: Tensor, *, digits: int, parts: int = 1) -> Scores:
    """Return the scores from the total ``loss`` in nats and the right digits of each number, (numbers)."""
    digits_in_all = digits * len(right)
    recalled = (right == digits).double()
    by_part = recalled.view(parts, -1).mean(1).tolist() if parts > 1 else []
    return {
        "recall": recalled.mean().item(),
        "digit_accuracy": right.sum().item() / digits_in_all,
        "bits_stored": max(0.0, digits_in_all * math.log2(10) - loss / math.log(2)),
        "loss": loss / digits_in_all,
        **{part_recall(number): value for number, value in enumerate(by_part, 1)},
    }
