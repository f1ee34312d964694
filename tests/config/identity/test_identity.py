"""Each setting declares whether it is part of a run's identity."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

import pytest

from rosa_bench.cli.help import options_text
from rosa_bench.config.groups import GROUPS, kinds, names_in
from rosa_bench.config.identity.run_id import free_settings, identity, is_identity, public_config, value_before
from rosa_bench.config.schema import Plain, RunConfig
from rosa_bench.system.setting import ABSENT, setting, settings_of

Compose = Callable[..., RunConfig]
WEIGHTS = {"data": "files sha256:0", "model": {"sha256": ["0"]}, "device": "cpu", "precision": "float32"}


@dataclass(frozen=True, kw_only=True)
class Extended(RunConfig):
    """The settings of a run and three more, each declared only here."""

    smoothing: float = setting("of labels", default=0.0, before=0.0, at_least=0, below=1)
    colour: str = setting("of the terminal", default="red", identity=False)
    scratch: str = setting("a folder", default="/tmp", identity=False, published=False)


def extended(config: RunConfig, **changes: object) -> Extended:
    return Extended(**{field.name: getattr(config, field.name) for field in fields(RunConfig)}, **changes)  # pyrefly: ignore[bad-argument-type]


def test_a_new_setting_is_declared_in_one_place(compose: Compose) -> None:
    config = compose("task=cola")
    known = identity(config, **WEIGHTS)
    same, smoothed = extended(config), extended(config, smoothing=0.1, colour="blue")
    assert identity(same, **WEIGHTS) == known  # unchanged, so no run changes its id
    assert identity(extended(config, smoothing=0), **WEIGHTS) == known  # the same number
    assert identity(smoothed, **WEIGHTS) == {**known, "smoothing": 0.1}
    shown = public_config(smoothed)
    assert (shown["smoothing"], shown["colour"]) == (0.1, "blue")
    assert "scratch" not in shown
    with pytest.raises(ValueError, match=r"^smoothing=1 is out of range"):
        extended(config, smoothing=1)
    assert "smoothing=0.0" in options_text(Extended)  # in --help
    assert "of labels" in options_text(Extended)


@pytest.mark.parametrize(("key", "expected"), [
    ("lr", True), ("seed", True), ("accumulate", True), ("rank", False), ("device", False), ("logger", False),
    ("logger.project", False), ("task.text", True), ("task.rows.train", False), ("task.hub.path", False),
    ("model.attention", True), ("model.path", False), ("model.random.hidden_size", False), ("method.rank", True),
    ("method.resample_every", True), ("method.default_lr.paper", False), ("method.default_init.paper", False),
    ("protocol.train_head", True), ("protocol.loss_on_prompt", False), ("optimizer.betas", True),
    ("optimizer.default_betas", False), ("nothing", True),
])  # fmt: skip
def test_a_dotted_key_counts_towards_identity_as_declared(key: str, expected: bool) -> None:
    assert is_identity(key) is expected


@pytest.mark.parametrize(("key", "expected"), [
    ("pad_to_max", False), ("compile", "none"), ("optimizer.schedule", "linear"), ("optimizer.name", "adamw"),
    ("method.lm_head", None), ("method.fused", None), ("method.split_qkv", False), ("lr", ABSENT),
    ("method.rank", ABSENT),
])  # fmt: skip
def test_older_records_get_the_value_used_before_a_setting_existed(key: str, expected: object) -> None:
    assert value_before(key) == expected


@pytest.mark.parametrize(("name", "expected"), [
    ("lora", 0.0), ("lora_plus", 0.0), ("rosa", ABSENT), ("ft", ABSENT), ("unknown", ABSENT),
])  # fmt: skip
def test_a_value_used_before_is_that_of_the_records_own_method(name: str, expected: object) -> None:
    assert value_before("method.resample_every", name) == expected


def test_settings_that_a_protocol_leaves_free_are_declared() -> None:
    free = set(free_settings())
    assert {"rank", "lr", "seed", "device", "data_dir", "logger", "compile"} <= free
    assert not free & {"epochs", "batch_size", "task", "method", "protocol", "optimizer", "pad_to_max"}


def test_every_setting_has_help_and_unpublished_settings_change_no_score() -> None:
    for declared, known in settings_of(RunConfig):
        assert known.help, declared.name
        assert known.published or not known.identity, declared.name


@pytest.mark.parametrize("group", GROUPS)
def test_every_class_of_a_group_inherits_its_base(group: str) -> None:
    assert kinds(group)
    for kind in kinds(group):
        assert issubclass(kind, GROUPS[group].base)


@pytest.mark.parametrize("task", names_in("task"))
def test_identity_and_public_settings_are_those_that_json_gives_back(compose: Compose, task: str) -> None:
    """The id of a run is made from JSON, and a record is read from it."""
    config = compose(f"task={task}")
    for settings in (identity(config, **WEIGHTS), public_config(config)):
        assert json.loads(json.dumps(settings)) == settings


def test_the_identity_has_only_settings_that_can_change_a_score(compose: Compose) -> None:
    known = identity(compose("task=cola"), **WEIGHTS)
    left_out = {declared.name for declared, setting in settings_of(Plain) if not setting.identity}
    assert not (known.keys() - {"device", "precision", "data"}) & left_out
    assert set(asdict(compose("task=cola"))) - left_out - {"logger"} - set(known) == {
        "pad_to_max", "group_by_length", "gradient_checkpointing", "offload", "compile", "stop_collapsed", "parallel",
        "base_dtype",
    }  # at their earlier values  # fmt: skip
