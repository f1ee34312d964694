"""Report mistakes in overrides such as ``task=cola`` as one line, with the key and the nearest known one."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import get_origin

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from rosa_bench.config.declared import alternatives, hints
from rosa_bench.config.files.folder import groups
from rosa_bench.config.groups import GROUPS, kinds
from rosa_bench.config.schema import RunConfig, Shorthand
from rosa_bench.system.errors import UserError, did_you_mean, unknown, user_error_in
from rosa_bench.system.text.printable import printable, shortened

MISFIT = re.compile("Error merging override [+]*(.*?)=(.*)\n?.*DictConfig with ListConfig", re.DOTALL)
SEVERAL = re.compile("Ambiguous value for argument '(.*?)'")
OTHERS = {  # what more there is to choose from in a group
    "hydra/launcher": ' (others: pip install "rosa-bench[sweep]", [slurm] or [ray])',
    "model": " (any other Hugging Face model: model=auto model.hub=ID, or model.path=FOLDER)",
}
OF_OMEGACONF = ("object_type=", "reference_type=", "full_key:")  # lines that do not help a user


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise `UserError` for an override that Hydra would accept although it makes no sense.

    Such an override removes a setting (``~lr``), adds one that does not exist (``++unknown=5``), or chooses several
    of a group at once (``task=[cola,rte]``).
    """
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        group = key.partition("@")[0]
        if (group in groups() or group.startswith("hydra/")) and value[:1] in ("[", "{"):
            raise UserError(f"{key} takes one name, not {shortened(value)}; a sweep over several is {key}=a,b with -m")
        if override.startswith("~") and not key.startswith("hydra"):
            raise UserError(f"{override} removes a setting that every run needs; set it to another value instead")
        if override.startswith("+") and not _can_be_added(key):
            raise UserError(f"{key} is not a setting{_meant(key, settings(), also=groups())}")
        root, _, rest = key.partition(".")
        if override.startswith("+") and rest and root in GROUPS and f"{root}._target_" not in " ".join(overrides):
            check_setting(key)
        name, _, element = rest.partition(".")
        if element and not element.isdecimal() and _is_list(root, name):
            raise UserError(f"{printable(key)} is no element of a list; write '{root}.{name}=[...]' to set all of it")


def check_setting(key: str) -> None:
    """Raise `UserError` unless a dotted key is a known setting."""
    root, _, rest = key.partition(".")
    known = [field.name for field in fields(RunConfig)]
    if root not in known:
        raise UserError(f"{key} is not a setting{_meant(root, known)}")
    name, inside = rest.partition(".")[0], _inside(root)
    if name and name not in inside:
        raise UserError(f"{key} is not a setting{_meant(name, inside, section=root)}")


def settings() -> list[str]:
    """Return the names of the settings at the top level."""
    return [field.name for kind in (RunConfig, Shorthand) for field in fields(kind)]


@contextmanager
def composition_errors() -> Iterator[None]:
    """Turn errors of Hydra and omegaconf inside the block into `UserError`."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain_composition(error)) from error


def explain_composition(error: HydraException | OmegaConfBaseException) -> str:
    """Explain an error of Hydra or omegaconf in one line."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        more = OTHERS.get(group, "")
        return _several(f"{group}={name}") if "," in name else unknown(group, name, error.options, more)
    if found := SEVERAL.match(str(error)):
        return _several(found[1])
    if found := MISFIT.match(f"{error}\n{error.__cause__}"):
        key, value = found[1], found[2].splitlines()[0]
        are, form = ("list, not a mapping", "{name: value}") if value[:1] == "[" else ("mapping, not a list", "[...]")
        return f"{key}={shortened(value)} is a {are}; write '{key}={form}'"
    if (mistake := user_error_in(error)) is not None:  # raised by one of our resolvers
        return str(mistake)
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
        known, section = [str(key) for key in cause.parent_node], str(cause.full_key).rpartition(".")[0]
        return f"{cause.full_key} is not a setting{_meant(str(cause.key), known, section=section)}"
    lines = [line.strip() for text in (error, cause or "") for line in str(text).splitlines()]
    return shortened("; ".join(line.removesuffix(".") for line in lines if line and not line.startswith(OF_OMEGACONF)))


def _several(override: str) -> str:
    return (
        f"{printable(override)} is more than one value; a sweep over them needs -m: rosa-bench -m {printable(override)}"
    )


def _meant(word: str, known: Sequence[str], *, also: Sequence[str] = (), section: str = "") -> str:
    """Return a hint: the setting that a word resembles, or else a list of all settings."""
    shown = [key for key in known if key not in ("hydra", "_target_") and not key.startswith("default_")]
    if near := did_you_mean(word, [*shown, *also]):
        return (near.replace("mean ", f"mean {section}.") if section else near) + " rosa-bench --help lists settings"
    return f" (settings: {', '.join(shown)})" if shown else ""


def _can_be_added(key: str) -> bool:
    """Return whether ``+key=...`` is valid: it chooses from a group, or sets a known setting."""
    group = key.partition("@")[0]
    return group.partition("/")[0] in {*groups(), "hydra"} or key.partition(".")[0] in {*settings(), "hydra"}


def _is_list(group: str, name: str) -> bool:
    """Return whether a class of a group declares the setting ``name`` as a list."""
    declared = [hints(kind)[name] for kind in (kinds(group) if group in GROUPS else ()) if name in hints(kind)]
    return any(get_origin(one) in (list, tuple) for kind in declared for one in alternatives(kind))


def _inside(group: str) -> list[str]:
    """Return the settings that at least one class of a group has."""
    classes = kinds(group) if group in GROUPS else ()
    return list(dict.fromkeys(field.name for kind in classes for field in fields(kind)))
