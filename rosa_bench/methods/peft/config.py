"""Settings of Hugging Face PEFT's tuners, as people write them: inline, or in a file such as adapter_config.json.

What PEFT reads may load files or name code. Such settings are refused here, before PEFT sees them.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rosa_bench.methods.size import UnsizedError
from rosa_bench.records.strict_json import loads, read_bytes
from rosa_bench.system.errors import UserError, did_you_mean, one_of

if TYPE_CHECKING:
    from peft import PeftConfig

MOST_BYTES = 2**20  # an adapter_config.json has a few kilobytes
MOST_ENTRIES = 10_000
DEEPEST = 4
LARGEST = 10**9
# Where an adapter comes from, and what it was for. A run's model and task are its own.
IGNORED = (
    "auto_mapping", "base_model_name_or_path", "inference_mode", "megatron_core", "peft_type", "peft_version",
    "revision", "task_type", "tokenizer_name_or_path",
)  # fmt: skip
DECIDED = {  # settings of ours that decide what PEFT would decide otherwise
    "modules_to_save": "the head trains by method.train_head",
    "layer_replication": "the model keeps its layers",
    "megatron_config": "the model is not one of Megatron",
    "loftq_config": "the model is not quantised",
    "trainable_token_indices": "the embeddings do not train",
    "ensure_weight_tying": "an adapted output layer is untied",
}
LOADS = re.compile(r"(^|_)(path|file|dir|folder|adapters|tokenizer|kwargs)(_|$)")
PATTERNS = ("alpha_pattern", "rank_pattern")  # their keys are names of layers
SEEDS = ("projection_prng_key", "projection_seed", "proj_seed", "random_seed", "random_loc_seed", "rng_seed")
ADJUSTED = "Invalid `"  # how PEFT warns that it uses another value than the given one, as OFT for sizes of blocks
SETTING = re.compile(r"[A-Za-z_]\w*")


def read_adapter_config(path: Path) -> dict[str, Any]:
    """Return the settings in an adapter_config.json. Raises `UserError` for anything but one JSON object."""
    try:
        values = loads(read_bytes(path, MOST_BYTES))
    except OSError as error:
        raise UserError(f"method.adapter_config={path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"method.adapter_config={path} is not a JSON file of PEFT's settings: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"method.adapter_config={path} is not a JSON object of PEFT's settings")
    return values


def checked_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in one order, without those that a run ignores.

    Raises `UserError` for a value that is not plain JSON or out of bounds, and for a setting that would load a file or
    contradict a setting of ours.
    """
    if sum(1 for _ in _leaves("", values, 0)) > MOST_ENTRIES:
        raise UserError(f"method.config has more than {MOST_ENTRIES:,} values")
    kept = {}
    for key in sorted(values):
        value = values[key]
        if not SETTING.fullmatch(key):
            raise UserError(f"method.config has a setting {ascii(key)[:100]}, which is not a name")
        if key in IGNORED or (key in DECIDED and value in (None, {}, [], False)):
            continue
        if key in DECIDED:
            raise UserError(f"method.config.{key} is not for this program: {DECIDED[key]}; remove it")
        if key == "bias":
            if value != "none":
                raise UserError("method.config.bias is not for this program: use method.train_biases")
            continue
        for name, leaf in () if key in PATTERNS else _leaves(key, value, 0):
            if leaf is not None and any(LOADS.search(part) for part in name.split(".")):
                raise UserError(f"method.config.{name} would load files; remove it")
        kept[key] = _ordered(value)
    return kept


def _leaves(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the single values inside a value, with their dotted names."""
    if depth > DEEPEST:
        raise UserError(f"method.config.{name} is nested too deeply")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}".lstrip("."), inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(name, inner, depth + 1)
    else:
        if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= LARGEST):
            raise UserError(f"method.config.{name}={value} is out of range; it must be at most {LARGEST:g}")
        yield name, value


def _ordered(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(inner) for inner in value] if isinstance(value, list | tuple) else value


def tuner_types() -> list[str]:
    """Return the types that the installed PEFT registers."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING)


def tuner_class(peft_type: str | None) -> Any:
    """Return PEFT's class for one of these types: a tuner of layers, or an encoder of virtual tokens."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    return {known.value: tuner for known, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()}[str(peft_type)]


def configuration(peft_type: str, values: Mapping[str, Any], *, seed: int) -> PeftConfig:
    """Return PEFT's own configuration. Random draws that have a seed of their own get ``seed``, if they have none.

    Unknown settings that are empty or off have no effect: files of other versions of PEFT have such. Raises
    `UserError`, which names the key, for an unknown type, any other unknown setting, and a value that PEFT refuses.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    one_of("method.peft_type", peft_type, tuner_types())
    kind = {known.value: config for known, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}[peft_type]
    known = {field.name: field for field in fields(kind) if field.init}
    foreign = {key for key, value in values.items() if key not in known and _is_empty(value)}  # of another version
    values = {key: value for key, value in values.items() if key not in foreign}
    for key, value in values.items():
        if key not in known:
            raise UserError(f"method.config.{key} is not known to PEFT's {peft_type}{did_you_mean(key, sorted(known))}")
        default = known[key].default
        _check_type(key, value, None if default is MISSING else default)
    own: dict[str, Any] = {key: seed for key in SEEDS if key in known}
    with refused_in_one_line(f"method.peft_type={peft_type}"):
        return kind(**{**own, **values})


def _is_empty(value: Any) -> bool:
    return value is None or value is False or value in ({}, [])


def _check_type(key: str, value: Any, default: Any) -> None:
    """Raise `UserError` if a number or text is given where PEFT's default has another type."""
    expected = {bool: (bool, str), int: (int,), float: (float, int), str: (str, bool)}.get(type(default))
    wrong_bool = isinstance(value, bool) and expected is not None and bool not in expected
    if value is not None and expected is not None and (wrong_bool or not isinstance(value, expected)):
        raise UserError(f"method.config.{key}={value} is not of the type of PEFT's default, {default}")


@contextmanager
def refused_in_one_line(what: str) -> Iterator[None]:
    """Turn what PEFT raises for settings or models that do not suit it into a `UserError`. Its advice is not shown.

    A setting that PEFT would replace by another value is refused, too: a run uses what its record says.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's advice is about its own interface
            warnings.filterwarnings("error", ADJUSTED)
            yield
    except UserWarning as warning:
        raise UserError(f"{what}: PEFT would use another value: {warning}") from warning
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, re.error) as error:
        from torch import OutOfMemoryError

        if isinstance(error, UserError | OutOfMemoryError):
            raise
        if isinstance(error, RuntimeError) and "meta" in str(error).lower():  # an operation that needs values
            raise UnsizedError(f"{what} needs weights to be attached") from error
        reason = " ".join(str(error).split())[:300]
        if not isinstance(error, ValueError | TypeError):  # an accident, which says nothing of a way out
            reason = f"{type(error).__name__}: {reason}; choose other layers with method.targets=, or another method"
        raise UserError(f"{what}: PEFT refuses it: {reason}") from error
