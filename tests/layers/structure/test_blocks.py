"""The blocks of a model are those of its main stack, from input to output."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from rosa_bench.layers.structure.blocks import stack_of_blocks

FUNNEL = {"block_sizes": [1, 2], "architectures": ["FunnelModel"]}
ZAMBA2 = {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]}


@pytest.mark.parametrize(("name", "settings", "stack"), [
    ("bert", {"num_hidden_layers": 2}, "encoder.layer.0 encoder.layer.1"),
    ("jamba", {"num_hidden_layers": 2, "attn_layer_period": 2, "attn_layer_offset": 1}, "layers.0 layers.1"),
    ("zamba2", ZAMBA2, "layers.0 layers.1 layers.2 layers.3"),
    ("funnel", FUNNEL, "encoder.blocks.0.0 encoder.blocks.1.0 encoder.blocks.1.1"),
])  # fmt: skip
def test_blocks_may_differ_in_type_and_lie_in_lists_of_lists(name: str, settings: dict[str, Any], stack: str) -> None:
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(name, **settings))
    names = {id(module): name for name, module in model.named_modules()}
    assert [names[id(block)] for block in stack_of_blocks(model)] == stack.split()


def test_layers_without_parts_are_no_blocks() -> None:
    assert stack_of_blocks(nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])) == []
