"""``rosa-bench next | sh`` on records of unknown origin: nothing in a record is run, and nothing of it is misread."""

import os
import random
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rosa_bench.config.composing.compose import composing
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.identity.run_id import public_config
from rosa_bench.config.overrides.grammar import spelled
from rosa_bench.records.record import RunRecord, from_values, to_values
from rosa_bench.report.next import next_commands

# Pieces that mean something to a shell, to Hydra, to omegaconf or to a regular expression's reader.
PIECES = (
    "a", "$(touch ran)", "`touch ran`", "; touch ran;", "&& touch ran", "| touch ran", "> ran", "'", '"', "\\", "\\\\",
    "$HOME", "${seed}", "${oc.env:HOME}", "\\${seed}", "${", "}", "[", "]", "{", "}", ",", "=", ":", "#", "~", "!", "*",
    "?", " ", "é", "null", "1e5", "4e56781", "1_000", "choice(1,2)", "--", "-m", "%s", "@", "/", "..",
)  # fmt: skip


def with_value(record: RunRecord, key: str, value: Any) -> RunRecord:
    """A record that says of itself that one setting has this value, and that it is a deviation."""
    values = to_values(record)
    return from_values({**values, "deviations": {**values["deviations"], key: [value, None]}})


def by_a_shell(commands: list[str], folder: Path) -> list[list[str]]:
    """Run commands in sh, where rosa-bench only writes its arguments down, and return these."""
    program = folder / "bin/rosa-bench"
    program.parent.mkdir(exist_ok=True)
    program.write_text('#!/bin/sh\nprintf "%s\\0" "$@" END >> "$WRITTEN"\n')
    program.chmod(0o755)
    written = folder / "arguments"
    written.write_text("")
    script = "\n".join(commands)
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False, cwd=folder).returncode == 0
    variables = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "WRITTEN": str(written)}
    subprocess.run(["sh"], input=script, text=True, check=True, cwd=folder, env=variables)
    calls = written.read_text(encoding="utf-8").split("\0END\0")
    assert sorted(path.name for path in folder.iterdir()) == ["arguments", "bin"]  # nothing else ran
    return [call.split("\0") for call in calls[:-1]]


def hostile_texts(count: int) -> list[str]:
    """Texts that together have every piece, in another order each time; for a long test each piece alone, and more.

    A text costs the same whatever its length, and a long one has more pairs of neighbours.
    """
    draw = random.Random(9)
    if count > len(PIECES):
        drawn = ("".join(draw.choices(PIECES, k=draw.randint(2, 16))) for _ in range(count))
        return list(dict.fromkeys([*PIECES, *drawn]))
    shuffled = draw.sample(PIECES, len(PIECES))
    return ["".join(shuffled[start::count]) for start in range(count)]


@pytest.mark.parametrize("count", [12, pytest.param(100, marks=pytest.mark.long)])
def test_a_text_in_a_record_arrives_in_the_run_as_it_is_and_does_nothing_else(
    make_record: Callable[..., RunRecord], tmp_path: Path, count: int
) -> None:
    record, texts = make_record("method=lora", "lr=1e-3"), hostile_texts(count)
    records = [with_value(record, "task.train", text) for text in texts]  # the split's name may be any text
    commands = next_commands(records, seeds=1)
    assert len(commands) == len(texts)
    assert not [command for command in commands if "\n" in command]
    calls = by_a_shell(commands, tmp_path)
    assert calls == [shlex.split(command)[1:] for command in commands]
    arrived = []
    with composing() as composer:
        for flag, *arguments in calls:
            assert flag == "-m"
            jobs = composer.expand(spelled(arguments, sweep=True))
            assert len(jobs) == 2  # at two learning rates: the value itself is no sweep
            arrived.append(public_config(parse(composer.compose(jobs[0])))["task"]["train"])
    assert sorted(arrived) == sorted(texts)


@pytest.mark.parametrize(("key", "value"), [
    ("hydra.launcher._target_", "os.system"),
    ("hydra/launcher", "joblib"),
    ("hydra.job.env_set.PATH", "."),
    ("hydra.run.dir", "/tmp"),
    ("hydra.searchpath", ["file:///tmp"]),
    ("task._target_", "os.system"),
    ("method._target_", "rosa_bench.methods.ft.FullFineTuning"),
    ("results_dir", "/tmp/elsewhere"),
    ("output_dir", "/tmp/elsewhere"),
    ("data_dir", "/tmp/elsewhere"),
    ("model.path", "/tmp/elsewhere"),
    ("task.hub.path", "somebody/else"),
    ("logger.folder", "/tmp/elsewhere"),
    ("save_model", True),
    ("resume", "never"),
    ("default.method.targets", "x"),
    ("task.embedded", "os:system"),
    ("task.train x", "x"),
    ("task.train", "a\nb"),
    ("task.train", "a\x1b[2Jb"),
    ("task.train", "a\u2028b"),
    ("task.train", "a\u202eb"),
    ("task.train", 5),
    ("task.train", {"a": "b"}),
    ("task.train", "x" * 20_000),
    ("epochs", "3; touch ran"),
    ("epochs", 0),
    ("epochs", [[[]]]),
    ("optimizer.betas", [0.9, "${oc.env:HOME}"]),
    ("method.targets", "("),
])  # fmt: skip
def test_what_the_settings_would_not_accept_is_not_printed_but_named(
    make_record: Callable[..., RunRecord], caplog: pytest.LogCaptureFixture, key: str, value: Any
) -> None:
    honest = make_record("task=rte", "method=lora", "lr=1e-3")
    wrong = with_value(make_record("method=lora", "lr=1e-3"), key, value)
    [command] = next_commands([wrong, honest], seeds=1)
    assert "task=rte" in shlex.split(command)
    [message] = [record.getMessage() for record in caplog.records]
    assert "cannot be repeated" in message
    assert message.isprintable()


@pytest.mark.parametrize("key", ["+task.train", "$(touch ran)", "epochs\nrm"])
def test_a_record_with_a_deviation_that_no_key_looks_like_is_not_read(
    make_record: Callable[..., RunRecord], key: str
) -> None:
    with pytest.raises(msgspec.ValidationError, match="deviations"):
        with_value(make_record("method=lora", "lr=1e-3"), key, "x")


@pytest.mark.parametrize(
    ("group", "name"), [("task", "cola,mrpc"), ("task", "../task/cola"), ("model", "$(touch ran)")]
)
def test_a_record_with_a_name_that_no_choice_has_is_not_read(
    make_record: Callable[..., RunRecord], group: str, name: str
) -> None:
    values = to_values(make_record("method=lora", "lr=1e-3"))
    values["config"][group]["name"] = name
    with pytest.raises(ValueError, match=f"{group}.name"):
        from_values(values)
