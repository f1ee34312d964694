"""Stacked multilayer perceptrons with Hugging Face's model interface."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import SequenceClassifierOutput

from rosa_bench.layers.structure.linear import StackedLinear
from rosa_bench.models.spec import Perceptron


class PerceptronConfig(PretrainedConfig):
    """Layer widths from input to output, the activation between layers, and the number of stacked networks."""

    model_type = "rosa_bench_perceptron"

    def __init__(self, widths: list[int] | None = None, activation: str = "relu", replicates: int = 1, **options: Any):
        super().__init__(**options)
        self.widths, self.activation, self.replicates = widths or [1, 1], activation, replicates


class PerceptronForRegression(PreTrainedModel):
    """A stack of ``replicates`` independent networks without biases, each with its own rows.

    Weights are initialised like those of `nn.Linear`, U(-1/sqrt(in), 1/sqrt(in)), from torch's global generator.
    """

    config_class = PerceptronConfig
    config: PerceptronConfig  # pyrefly: ignore[bad-override-mutable-attribute]

    def __init__(self, config: PerceptronConfig):
        super().__init__(config)
        self.activation = ACT2FN[config.activation]
        self.layers = nn.ModuleList(
            StackedLinear((torch.rand(config.replicates, rows, columns) * 2 - 1) / columns**0.5)
            for columns, rows in zip(config.widths[:-1], config.widths[1:], strict=True)
        )
        self.post_init()

    def get_input_embeddings(self) -> None:  # pyrefly: ignore[bad-override]
        """Return None: its inputs are numbers, not tokens. transformers would raise."""

    def forward(
        self, inputs: Float[Tensor, "rows replicates in"], labels: Float[Tensor, "rows replicates out"] | None = None
    ) -> SequenceClassifierOutput:
        """Compute ``logits`` (rows, replicates, out) and, given labels, the ``loss``.

        The loss is the sum over replicates of their mean squared errors, so each trains as it would alone.
        """
        hidden = inputs.movedim(0, -2)  # (replicates, rows, in)
        for number, layer in enumerate(self.layers):
            hidden = layer(self.activation(hidden) if number else hidden)
        outputs = hidden.movedim(-2, 0)
        loss = None if labels is None else (outputs - labels).square().mean((0, 2)).sum()
        return SequenceClassifierOutput(loss=loss, logits=outputs)


def make_perceptron(spec: Perceptron, *, inputs: int, outputs: int, replicates: int) -> PerceptronForRegression:
    """Make random networks with the declared hidden layers and the task's input and output sizes."""
    widths = [inputs, *spec.hidden, outputs]
    return PerceptronForRegression(PerceptronConfig(widths, spec.activation, replicates))
