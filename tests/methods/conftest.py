"""A trial of one method on one tiny model, for the laws of the matrix, and small models for inserted layers."""

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from transformers import MPNetConfig, MPNetForSequenceClassification, PreTrainedModel

from rosa_bench.config.composing.parse import parse
from rosa_bench.config.identity.defaults import composed
from rosa_bench.config.schema import RunConfig
from rosa_bench.data.batches import Batch
from rosa_bench.layers.structure.linear import LINEAR_TYPES, weight_of
from rosa_bench.layers.structure.surgery import name_matches
from rosa_bench.methods.base import Method
from rosa_bench.models.attention import use_fast_attention
from rosa_bench.runs.run import recipe
from rosa_bench.system.errors import UserError
from rosa_bench.system.resources.meter import Meter
from rosa_bench.training.checkpoint import Snapshot
from rosa_bench.training.loop import fit, optimisation
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Training

CPU = torch.device("cpu")
STEPS = 4  # in two epochs
RANK = 4
SHORT = {
    "every": 1,
    "update_every": 1,
    "blocks": 1,
}  # by default nothing would be due, or all blocks train
MODELS = ("tiny_roberta", "tiny_gpt2", "tiny_llama", "tiny_bert")
ENCODERS = ("tiny_roberta", "tiny_bert")

# The layers that targets=attention names, by the ends of their names.
ATTENTION = {
    "tiny_roberta": r"attention\.self\.(query|key|value)|attention\.output\.dense",
    "tiny_bert": r"attention\.self\.(query|key|value)|attention\.output\.dense",
    "tiny_gpt2": r"attn\.(c_attn|c_proj)",
    "tiny_llama": r"self_attn\.(q|k|v|o)_proj",
}
HEAD = {"tiny_roberta": r"classifier\..*", "tiny_bert": r"(bert\.pooler|classifier)\..*"}


class EveryStep:
    """The interface that `fit` needs of batches: the same few in every epoch."""

    batch_size = 4

    def __init__(self, batches: list[Batch]):
        self.all = batches

    def __len__(self) -> int:
        return len(self.all)

    def epoch(self, _number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        yield from self.all[start:]


@dataclass
class Keep:
    """Observes a training: keeps its state, as a checkpoint would, after half of the steps, and its optimizer."""

    half: Snapshot | None = None
    training: Training | None = None

    def on_train_start(self, training: Training) -> None:
        self.training = training

    def on_step_start(self, training: Training) -> None:
        if training.step == STEPS // 2:
            self.keep(training)

    def on_epoch_end(self, training: Training, number: int, _epoch: Any) -> None:
        if not training.steps_per_epoch and number + 1 == STEPS // 2:  # a candidate takes the place of a step
            self.keep(training)

    def keep(self, training: Training) -> None:
        kept = training.state
        tensors = {name: tensor.detach().clone() for name, tensor in kept.tensors.items()}
        self.half = Snapshot(tensors, copy.deepcopy(kept.values))

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("on_"):
            return lambda *_: None
        raise AttributeError(name)


@dataclass
class Trial:
    """One method on one model under one protocol.

    wanted  type of the model. By default float64, in which laws hold to 1e-9; float32 for PEFT's tuners, some of which
            refuse float64
    changes settings of the method that differ from those of the recipe
    """

    method_name: str
    model_name: str
    protocol: str
    compose: Callable[..., RunConfig]
    make: Callable[[str], PreTrainedModel]
    roughened: Callable[..., Any]
    wanted: torch.dtype | None = None
    device: torch.device = field(default=CPU)
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def is_encoder(self) -> bool:
        """Whether the model has a head for classes."""
        return self.model_name in ENCODERS

    @property
    def overrides(self) -> list[str]:
        """What a user would write on the command line."""
        task = "grammar" if self.is_encoder else "restaurants"
        return [
            f"task={task}", f"model={self.model_name}", f"method={self.method_name}", f"protocol={self.protocol}",
            f"rank={RANK}",
        ]  # fmt: skip

    @cached_property
    def config(self) -> RunConfig:
        """The settings of a run. Raises `UserError` if the method refuses them."""
        chosen = (word.split("=") for word in self.overrides if not word.startswith("rank="))
        return parse(OmegaConf.create({**composed(dict(chosen)), "rank": RANK}))  # much faster than Hydra

    @cached_property
    def method(self) -> Method:
        """The method, as the command line makes it, but with periods so short that something happens in a trial."""
        method = self.config.method
        short: dict[str, Any] = {name: value for name, value in SHORT.items() if hasattr(method, name)}
        if getattr(method, "resample_unit", None) == "steps":
            short["resample_every"] = 2 * RANK  # one vector a step
        if "blocks" in short:
            short["seed"] = 3  # with 0, the same of two blocks would be drawn every time
        return replace(method, **{**short, **self.changes})

    @property
    def dtype(self) -> torch.dtype:
        """The type of the model's weights."""
        return self.wanted or (torch.float32 if hasattr(self.method, "peft_type") else torch.float64)

    @cached_property
    def atol(self) -> float:
        """The largest difference that is rounding."""
        largest = self.logits(self.plain).abs().max().item()
        return 1e-9 if self.dtype == torch.float64 else 1e-5 * max(1.0, largest)

    @cached_property
    def plain(self) -> PreTrainedModel:
        """The model without the method, and without zeros that could hide errors."""
        model = self.make(self.model_name).to(dtype=self.dtype)  # pyrefly: ignore[missing-argument]
        return self.roughened(model).to(self.device)

    def attach(self, method: Method | None = None) -> nn.Module:
        """Attach the method to a new copy of the model."""
        calibration = (self.batch(number) for number in range(8))
        return (method or self.method).attach(copy.deepcopy(self.plain), calibration).eval()

    @cached_property
    def refusal(self) -> str | None:
        """What the user reads if the method cannot serve this model; None if it can."""
        try:
            _ = self.untrained
        except UserError as error:
            return str(error)
        return None

    @cached_property
    def batches(self) -> list[Batch]:
        """The batches of one epoch. Those of encoders are padded."""
        return [self.batch(number) for number in range(STEPS // 2)]

    def batch(self, number: int) -> Batch:
        """Return a batch of 4 rows with 10 tokens."""
        ids = torch.randint(5, 261, (4, 10), generator=torch.Generator().manual_seed(number))
        if not self.is_encoder:
            found = {"input_ids": ids, "labels": ids.clone()}
        else:
            mask = (torch.arange(10) < torch.tensor([10, 7, 3, 10]).unsqueeze(1)).long()
            labels = torch.tensor([0, 1, 1, 0])
            found = {"input_ids": ids * mask + (1 - mask), "attention_mask": mask, "labels": labels}
        return {name: tensor.to(self.device) for name, tensor in found.items()}

    def logits(self, model: nn.Module) -> Tensor:
        """Return the model's answers without dropout. Padding is left out."""
        batch = self.batch(7)
        with torch.no_grad():
            return model.eval()(**batch).logits.clone()

    def gradients(
        self, model: nn.Module, autocast: Callable[[], AbstractContextManager] = nullcontext, *, training: bool = True
    ) -> Any:
        """Return the gradients of one step, with dropout if ``training``, from the same random numbers every time."""
        torch.manual_seed(5)
        model.zero_grad(set_to_none=True)
        with autocast():
            loss = model.train(training)(**self.batch(7)).loss
        loss.backward()
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad(set_to_none=True)
        return found

    def fit(
        self,
        model: nn.Module,
        start: Snapshot | None = None,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        observers: Sequence[Observer] = (),
    ) -> Keep:
        """Train the attached model for a few steps as a run does, or from ``start`` on."""
        kept = Keep()
        torch.manual_seed(9 if start is None else 99)  # a snapshot brings its own random state
        epochs, batches = (2, self.batches) if self.method.trains else (STEPS, [])
        config = replace(self.config, epochs=epochs, lr=1e-2, optimizer=replace(self.config.optimizer, warmup_steps=0))
        fit(
            model, self.method, EveryStep(batches), recipe=recipe(config, STEPS // 2),  # pyrefly: ignore[bad-argument-type]
            evaluate=lambda: {"loss": 0.0}, autocast=autocast, meter=Meter(self.device),
            observers=[kept, *observers], start=start,
        )  # fmt: skip
        model.eval()
        return kept

    def training(self, model: nn.Module) -> tuple[Training, Callable[[Batch], Tensor]]:
        """Return the training of an attached model, and its step."""
        made = Training(model, self.method, recipe(self.config, 100), steps_per_epoch=100, device=self.device)
        return made, optimisation(made, nullcontext)

    @cached_property
    def untrained(self) -> nn.Module:
        """The model with the method attached. Leave it as it is."""
        return self.attach()

    @cached_property
    def trained(self) -> tuple[nn.Module, Keep]:
        """The model after a few steps, and what was kept on the way. Leave it as it is."""
        model = copy.deepcopy(self.untrained)
        return model, self.fit(model)

    @cached_property
    def merged(self) -> tuple[nn.Module, bool]:
        """A copy of the trained model after merging, and what merging returned."""
        model = copy.deepcopy(self.trained[0])
        return model, self.method.merge(model)


@dataclass(frozen=True)
class Shapes:
    """Sizes of a plain model, from which a method's trainable parameters are counted.

    targets  (out, in) of each layer that the protocol adapts, as named by ``targets=attention``
    beside   parameters that the protocol trains beside the method's own: the head, or the biases of the targets
    norms    weights and biases of all layer normalisation
    keys     numbers in the keys of one position of one block
    block    parameters of one block
    tensors  weights and biases outside the head, as whole tensors
    """

    targets: list[tuple[int, int]]
    beside: int
    head: int
    biases: int
    total: int
    width: int
    blocks: int
    norms: int
    keys: int
    block: int
    tensors: int


@pytest.fixture(scope="session")
def shapes_of() -> Callable[[Trial], Shapes]:
    """``shapes_of(trial)``: the sizes of its plain model, by rules that are independent of the package's own."""
    return _shapes


def _shapes(trial: Trial) -> Shapes:
    model, name = trial.plain, trial.model_name
    pattern = ATTENTION[name] + ("|lm_head" if trial.protocol == "paper" and not trial.is_encoder else "")
    targets = [
        module for at, module in model.named_modules() if isinstance(module, LINEAR_TYPES) and name_matches(pattern, at)
    ]
    head_names = HEAD.get(name, "(?!)")
    head = sum(p.numel() for at, p in model.named_parameters() if name_matches(head_names, at))
    biases = {at: p.numel() for at, p in model.named_parameters() if at.endswith("bias")}
    of_targets = sum(module.bias.numel() for module in targets if module.bias is not None)
    return Shapes(
        targets=[tuple(weight_of(module).shape) for module in targets],  # pyrefly: ignore[bad-argument-type]
        beside=head if trial.protocol == "fair" else of_targets,
        head=head,
        biases=sum(count for at, count in biases.items() if not name_matches(head_names, at)),
        total=sum(p.numel() for p in model.parameters()),
        width=model.config.hidden_size,
        blocks=model.config.num_hidden_layers,
        norms=sum(p.numel() for at, p in model.named_parameters() if re.search(r"(?i)norm|\.ln_", at)),
        keys=model.config.hidden_size
        // model.config.num_attention_heads
        * getattr(model.config, "num_key_value_heads", model.config.num_attention_heads),
        block=sum(p.numel() for at, p in model.named_parameters() if re.search(r"\.(layer|layers|h)\.0\.", at)),
        tensors=sum(not name_matches(head_names, at) for at, _ in model.named_parameters()),
    )


@pytest.fixture(scope="session")
def make_trial(
    compose: Callable[..., RunConfig], tiny_model: Callable[[str], PreTrainedModel], roughened: Callable[..., Any]
) -> Callable[..., Trial]:
    """``make_trial("lora", "tiny_gpt2", "fair")``: a trial of this method."""

    def make(method: str, model: str, protocol: str, **changes: Any) -> Trial:
        return Trial(method, model, protocol, compose, tiny_model, roughened, **changes)

    return make


# Small models for the tests of methods that insert layers

DECODERS = ("tiny_gpt2", "tiny_llama")


class Small:
    """Small models in float64 without dropout, with weights large enough that every part has an effect.

    ``mpnet_base`` is an MPNet with the declaration of the full-size model, and a small shape.
    """

    ids = torch.randint(5, 261, (4, 10), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(10) < torch.tensor([10, 7, 3, 10]).unsqueeze(1)).long()

    def __init__(
        self,
        compose: Callable[..., Any],
        tiny_model: Callable[..., PreTrainedModel],
        roughened: Callable[..., Any],
    ):
        self.compose, self.tiny_model, self.roughened = compose, tiny_model, roughened

    def model(self, name: str) -> PreTrainedModel:
        """The model as it is before a method is attached."""
        torch.manual_seed(0)
        model = small_mpnet() if name == "mpnet_base" else self.tiny_model(name)
        return self.roughened(model).double().eval()

    def method(self, model: str, method: str, *overrides: str) -> Method:
        """The method as the command line makes it."""
        task = "restaurants" if model in DECODERS else "grammar"
        return self.compose(f"task={task}", f"model={model}", f"method={method}", *overrides).method

    def attach(self, model: str, method: str, *overrides: str) -> Any:
        """The model with the method attached."""
        return self.method(model, method, *overrides).attach(self.model(model))

    def logits(self, model: Any, ids: Tensor | None = None, mask: Tensor | None = None, **options: Any) -> Tensor:
        """The logits of each row, or for decoders of each token that is not padding."""
        if ids is None:
            ids, mask = self.ids, self.mask
        with torch.no_grad():
            found = model(input_ids=ids, attention_mask=mask, **options).logits
        return found if mask is None or found.ndim == 2 else found[mask.bool()]

    def move(self, model: nn.Module, seed: int = 3) -> Any:
        """Change every parameter that trains, and return the model."""
        return self.roughened(model, seed=seed, trained=True)


def small_mpnet() -> PreTrainedModel:
    """An MPNet with two small layers and random weights."""
    shape = MPNetConfig(
        vocab_size=261, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    model = MPNetForSequenceClassification(shape)
    use_fast_attention(model)
    return model


@pytest.fixture
def small(
    compose: Callable[..., Any], tiny_model: Callable[..., PreTrainedModel], roughened: Callable[..., Any]
) -> Small:
    """See `Small`."""
    return Small(compose, tiny_model, roughened)
