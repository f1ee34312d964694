"""FISH mask: the weights with the largest Fisher information train, and all others stay as they are.

The mask is chosen once, before training, and never changes. Only the chosen entries have gradients and optimizer state:
24 bytes each with AdamW in float32, where full fine-tuning has 12 for every entry. A pass forms the weights that have
chosen entries again, which adds up to 4 bytes for each of their entries. Choosing takes two numbers for every weight of
the body on the device, less than full fine-tuning keeps. Sorting them takes up to 20 bytes each in the host's memory. A
resumed run chooses again, and then takes the mask from its checkpoint.

Source: Sung et al., "Training Neural Networks with Fixed Sparse Masks", arXiv 2111.09839. As in the authors' code, the
head is not part of the mask. We differ in that dropout is off while the mask is chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rosa_bench.methods.sparse import SparseMethod
from rosa_bench.system.errors import UserError
from rosa_bench.system.seeds import generator
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FishMask(SparseMethod):
    """Trains the ``density`` of the body's weights, biases and embeddings that matter most for the training rows.

    labels ``given``  the Fisher information of the rows' own labels: the empirical one, the authors' choice
           ``drawn``  of labels that are drawn from the model
    """

    samples: int = setting("training rows that choose the weights; all, if there are fewer", at_least=1, at_most=10**9)
    labels: str = setting("labels of these rows: their own, or drawn from the model", choices=("given", "drawn"))

    def attach(self, model: nn.Module, calibration: Iterable[Mapping[str, Tensor]] | None = None) -> nn.Module:
        from rosa_bench.layers.weights.parametrised import ChosenEntries, parametrise

        body = self.body(model)
        chosen = zip(body, self.chosen(model, body, calibration), strict=True)
        parametrise(model, {weight: ChosenEntries(weight, indices) for weight, indices in chosen if len(indices)})
        return super().attach(model)

    def chosen(
        self, model: nn.Module, body: list[nn.Parameter], calibration: Iterable[Mapping[str, Tensor]] | None
    ) -> list[Tensor]:
        """Return the entries that train: for each weight of the body, indices into its flattened form."""
        from rosa_bench.layers.weights.entries import first_entries, largest_entries
        from rosa_bench.layers.weights.fisher import fisher_information, single_rows

        total = sum(weight.numel() for weight in body)
        count = self.count(total)
        if body[0].is_meta:  # shapes alone have no gradient; only the number of entries matters
            return first_entries(body, count)
        model.requires_grad_(False)
        for weight in body:
            weight.requires_grad_(True)
        log.info("choosing %d of %d weights by their Fisher information on up to %d rows", count, total, self.samples)
        rows = single_rows(calibration or (), self.samples)
        draw = generator(self.seed, "fisher") if self.labels == "drawn" else None
        try:
            return largest_entries(fisher_information(model, body, rows, generator=draw), count)
        except ValueError as error:
            raise UserError(
                f"method={self.name} cannot choose weights: {error}; give training data, or choose another method"
            ) from error
