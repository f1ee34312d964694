"""The settings of ROSA in PEFT, and the two files that describe a saved adapter."""

from __future__ import annotations

import json
import operator
from contextlib import suppress
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from peft import LoraConfig

from rosa_bench.integrations.peft.register import rosa_type
from rosa_bench.lowrank import SELECTIONS
from rosa_bench.system.errors import UserError, at_least, one_of
from rosa_bench.system.files.atomic import write_atomic
from rosa_bench.system.text.json_text import loads

STATE_FILE = "rosa_config.json"
FORMAT = 1
INITS = ("svd", "balanced")  # the splits of `rosa_bench.lowrank` that keep the model's function and train every factor

# What ROSA takes over from LoRA. The other settings choose another method, or another kind of layer.
SHARED = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "target_modules", "exclude_modules", "lora_dropout", "fan_in_fan_out", "bias", "modules_to_save",
    "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "megatron_core", "runtime_config",
}  # fmt: skip


@dataclass
class RosaConfig(LoraConfig):
    """ROSA's settings: LoRA's, as far as they make sense, and when and how a new subspace is drawn.

    ``lora_alpha`` is not a setting: the factors are part of the weight, so their scale is 1. With
    ``init_lora_weights=False`` noise is added to the factors, so that the model's function changes, as tests want it.

    Raises `UserError` if a value is out of range, or if one of LoRA's settings is used that ROSA does not have.
    """

    # Not a setting of ROSA: always equal to r.
    lora_alpha: Any = None
    select: str = field(default="random", metadata={"help": f"Which directions train: {', '.join(SELECTIONS)}"})
    init: str = field(default="svd", metadata={"help": f"How a weight is split: {', '.join(INITS)}"})
    resample_every: int = field(default=0, metadata={"help": "Steps between two draws; 0: none but the first"})
    seed: int = field(default=0, metadata={"help": "Seed of the draws"})

    def __post_init__(self) -> None:
        for known in fields(LoraConfig):
            if known.name not in SHARED | {"lora_alpha"} and getattr(self, known.name) != _default(known):
                raise UserError(
                    f"{known.name}={getattr(self, known.name)!r} is a setting of LoRA that ROSA does not have"
                )
        if self.init_lora_weights not in {True, False}:
            raise UserError(
                f"init_lora_weights={self.init_lora_weights!r} is not for ROSA; use init={' or '.join(INITS)}"
            )
        if self.lora_alpha not in {None, self.r}:
            raise UserError(f"lora_alpha={self.lora_alpha} is not for ROSA, whose factors have no scale; leave it out")
        at_least("r", self.r, 1)
        at_least("resample_every", self.resample_every, 0)
        at_least("seed", self.seed, 0)
        one_of("select", self.select, SELECTIONS)
        one_of("init", self.init, INITS)
        self.lora_alpha = self.r
        super().__post_init__()
        self.peft_type = rosa_type()
        self.saved_draws: int | None = None  # of the adapter that these settings were read with
        self.exported: tuple[int, int] | None = None  # rank and draws of the adapter that is being written

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write ``adapter_config.json``, as LoRA's after the tensors were collected, and then ``rosa_config.json`` too.

        The tuner collects the tensors first, and then knows the rank of the exact update (`RosaModel`).
        """
        if self.exported is None:
            super().save_pretrained(save_directory, **kwargs)
            return
        shared = {name: getattr(self, name) for name in SHARED - {"peft_type", "init_lora_weights", "rank_pattern"}}
        rank, draws = self.exported
        LoraConfig(**shared | {"r": rank, "lora_alpha": rank}).save_pretrained(save_directory, **kwargs)
        state = {"format": FORMAT, "draws": draws, "config": self._plain()}
        write_atomic(Path(save_directory) / STATE_FILE, json.dumps(state, indent=2, sort_keys=True) + "\n")
        self.exported = None

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any
    ) -> RosaConfig:
        """Read the settings with which a saved adapter goes on training, from a folder or the hub.

        Raises `UserError` if the adapter was not saved by ROSA.
        """
        folder = Path(pretrained_model_name_or_path, subfolder or "")
        path = folder / STATE_FILE
        if not folder.is_dir():
            with suppress(EntryNotFoundError):
                path = Path(
                    hf_hub_download(str(pretrained_model_name_or_path), STATE_FILE, subfolder=subfolder, **kwargs)
                )
        if not path.is_file():
            config = super().from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)
            if isinstance(config, cls):
                return config
            raise UserError(
                f"{pretrained_model_name_or_path} has no {STATE_FILE}, so ROSA did not save it; "
                "load it as LoRA, without config="
            )
        return cls._parsed(path)

    @classmethod
    def _parsed(cls, path: Path) -> RosaConfig:
        """Make the settings from a file. Raises `UserError` unless it has the right form."""
        try:
            state = loads(path.read_text(encoding="utf-8"))
            version, draws, given = state["format"], state["draws"], dict(state["config"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{path} is not a file of ROSA's settings") from error
        unknown = sorted(set(given) - {known.name for known in fields(cls)})
        if version != FORMAT or unknown:
            raise UserError(f"{path} was written by another version of rosa_bench: format {version}, {unknown}")
        try:
            at_least("draws", draws, 0)
            config = cls(**given)
            config.saved_draws = operator.index(draws)  # also refuses None and fractions
        except TypeError as error:
            raise UserError(f"{path} has a setting of another type: {error}") from error
        return config

    def _plain(self) -> dict[str, Any]:
        """Return the settings as JSON can hold them."""
        wanted = (SHARED - {"peft_type", "runtime_config"}) | {"select", "init", "resample_every", "seed"}
        values = {name: value for name, value in asdict(self).items() if name in wanted}
        return {name: sorted(value) if isinstance(value, set) else value for name, value in values.items()}


def _default(known: Field) -> Any:
    """Return the default of a dataclass field."""
    return known.default if known.default_factory is MISSING else known.default_factory()
