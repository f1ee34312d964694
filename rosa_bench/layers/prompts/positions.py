"""The maximum input length of a transformer."""

import sys

from torch import nn


def num_positions(model: nn.Module) -> int:
    """Return the number of token positions; `sys.maxsize` if nothing limits it, as with Bloom's relative positions.

    RoBERTa and MPNet skip positions up to the padding index, so they have fewer positions than rows in their table.
    """
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding):
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return getattr(model.config, "max_position_embeddings", sys.maxsize)
