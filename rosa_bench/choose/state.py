"""What a choice has decided, in ``choose/<id>.json`` of a results folder. Its runs are ordinary records."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from rosa_bench.choose.candidates import Untried
from rosa_bench.choose.plan import Arm, Cost, Rows, Size
from rosa_bench.system.errors import UserError, cannot_be_read
from rosa_bench.system.files.atomic import write_atomic

SCHEMA = 1


class Choice(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The plan of a choice, and what it has cost so far.

    given      the settings of its runs, as on the command line that began it
    limits     settings that limit rows and set the epochs
    about      a note about the user's own data
    costs      what was measured, by kind of arm
    untried    what is not tried, and why
    reference  the method whose best arm is always a finalist
    spent_s    seconds so far, in all parts
    """

    id: str
    given: list[str]
    limits: list[str]
    size: Size
    rows: Rows
    about: str
    costs: dict[str, Cost]
    untried: list[Untried]
    reference: str
    spent_s: float
    schema: int = SCHEMA


def choice_id(identities: Mapping[Arm, Mapping[str, Any]], others: Iterable[object], *, task: str, model: str) -> str:
    """Return ``<task>-<model>-<hash>``. The hash is of all that can change the choice: rows, weights, arms, limits."""
    content = [[str(arm), identity] for arm, identity in identities.items()]
    digest = hashlib.sha256(json.dumps([content, list(others)], sort_keys=True, default=str).encode()).hexdigest()[:10]
    return f"{task}-{model}-{digest}"


def choice_path(results_dir: Path, name: str) -> Path:
    """Return the path of a choice, whether or not it exists."""
    return results_dir / "choose" / f"{name}.json"


def load_choice(path: Path) -> Choice | None:
    """Return a choice that was begun; None if there is none. Raises `UserError` if the file is something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Choice)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_be_read(str(path), error) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not the plan of a choice: {error}; move it away to begin again") from error


def save_choice(choice: Choice, path: Path) -> None:
    """Write a choice atomically."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(choice), indent=1) + b"\n")
