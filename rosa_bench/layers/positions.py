"""How long the inputs of a transformer may be."""

from torch import nn


def num_positions(model: nn.Module) -> int:
    """Return how many tokens have a position.

    RoBERTa and MPNet skip the positions up to that of the padding, so they have fewer than their table has rows.
    """
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding):
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return model.config.max_position_embeddings  # pyright: ignore[reportReturnType, reportAttributeAccessIssue]
