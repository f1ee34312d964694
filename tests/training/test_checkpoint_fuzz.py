"""Damaged and forged checkpoints: what is loaded equals what was saved, bit for bit, or it is not loaded at all."""

import copy
import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from rosa_bench.config.schema import RunConfig
from rosa_bench.runs.checkpoints.resumable import check_optimizer, check_resumable
from rosa_bench.runs.inputs import inputs_of
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import run
from rosa_bench.tasks.prepared import PreparedTask
from rosa_bench.training.checkpoint import TENSORS, VALUES, Checkpoints, MisfitError, Snapshot
from rosa_bench.training.observers.base import Observer

STEPS, EPOCHS, AT = 5, 4, 8  # per epoch, of the run, and the step of the checkpoint
TINY = (
    "task=grammar", "model=tiny_roberta", "device=cpu", "limit_train=40", "limit_eval=16", "batch_size=8",
    f"epochs={EPOCHS}", "lr=3e-3", "checkpoint_s=1e6", "method=rosa", "rank=2", "method.resample_every=3",
    "method.resample_unit=steps", "save_model=true", "protocol=paper",
)  # fmt: skip


class Stop(Observer):
    def on_step_start(self, training: Any) -> None:
        if training.step == AT:
            raise KeyboardInterrupt


class Real(NamedTuple):
    """A checkpoint of a real run, its folder, and the run."""

    resolved: ResolvedRun
    problem: PreparedTask
    path: Path
    snapshot: Snapshot


@pytest.fixture(scope="module")
def real(compose: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Real:
    folder = tmp_path_factory.mktemp("real")
    where = (f"results_dir='{folder / 'results'}'", f"output_dir='{folder / 'outputs'}'")
    resolved = resolve(compose(*TINY, "checkpoint_s=0", *where), {})
    with pytest.raises(KeyboardInterrupt):
        run(resolved, [Stop()])
    problem = resolved.config.task.prepare(resolved.context)
    problem = replace(problem, model=resolved.config.method.attach(problem.model))  # pyrefly: ignore[bad-argument-type]
    [path] = resolved.checkpoints.iterdir()
    found = checkpoints(resolved.checkpoints, resolved, problem).load()
    assert found is not None
    return Real(resolved, problem, path, found)


def checkpoints(folder: Path, resolved: ResolvedRun, problem: PreparedTask) -> Checkpoints:
    """Checkpoints in ``folder`` as the run makes them."""
    made = Checkpoints(folder, resolved.identity, every_s=0)
    made.inputs = inputs_of(problem)
    return made


@pytest.fixture(autouse=True)
def _without_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _handle: None)  # hundreds of checkpoints, and no crash


def loaded(real: Real, folder: Path) -> Snapshot | None:
    """What the run would continue from."""
    return checkpoints(folder, real.resolved, real.problem).load(partial(check_resumable, real.resolved, real.problem))


def same(one: Snapshot, other: Snapshot) -> bool:
    return (
        json.dumps(one.values, sort_keys=True) == json.dumps(other.values, sort_keys=True)
        and one.tensors.keys() == other.tensors.keys()
        and all(_bits(tensor) == _bits(other.tensors[name]) for name, tensor in one.tensors.items())
    )


def _bits(tensor: torch.Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


# Damage: the bytes on disk change


def flip_bit(content: bytearray, draw: random.Random) -> None:
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def flip_in_head(content: bytearray, draw: random.Random) -> None:
    content[draw.randrange(min(200, len(content)))] ^= 1 << draw.randrange(8)


def cut(content: bytearray, draw: random.Random) -> None:
    del content[draw.randrange(len(content)) :]


def lengthen(content: bytearray, draw: random.Random) -> None:
    content += draw.randbytes(draw.randint(1, 100))


def zero_block(content: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(content))
    end = min(len(content), start + draw.choice([1, 16, 512, 4096]))
    content[start:end] = bytes(end - start)


def move_block(content: bytearray, draw: random.Random) -> None:
    length = draw.randint(1, len(content) // 2)
    source, target = (draw.randrange(len(content) - length + 1) for _ in range(2))
    content[target : target + length] = content[source : source + length]


def change_digit(content: bytearray, draw: random.Random) -> None:
    digits = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    content[draw.choice(digits)] = ord(str(draw.randrange(10)))


DAMAGE = (flip_bit, flip_bit, flip_in_head, cut, lengthen, zero_block, move_block, change_digit)


def assert_never_believed(real: Real, folder: Path, cases: range, caplog: pytest.LogCaptureFixture) -> None:
    skipped = 0
    for case in cases:
        draw, path = random.Random(case), folder / str(case) / real.path.name
        shutil.copytree(real.path, path)
        file = path / draw.choice([TENSORS, VALUES])
        before = file.read_bytes()
        content = bytearray(before)
        damage = draw.choice(DAMAGE)
        damage(content, draw)
        file.write_bytes(content)
        caplog.clear()
        found = loaded(real, path.parent)
        told = f"case {case}: {damage.__name__} of {file.name}"
        if found is None:
            skipped += 1
            [message] = caplog.messages
            assert str(path) in message, told
            assert "\n" not in message, told
        else:
            assert same(found, real.snapshot), told  # such as a space between two values
        shutil.rmtree(path.parent)
    assert skipped > 0.8 * len(cases)


def test_a_damaged_checkpoint_is_never_believed(real: Real, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_never_believed(real, tmp_path, range(60), caplog)


@pytest.mark.long
def test_a_damaged_checkpoint_is_never_believed_for_longer(
    real: Real, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert_never_believed(real, tmp_path, range(1000, 4000), caplog)


@pytest.mark.parametrize("file", [TENSORS, VALUES])
def test_a_file_of_another_step_is_noticed(
    real: Real, tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = Snapshot(
        {name: tensor.clone() for name, tensor in real.snapshot.tensors.items()}, copy.deepcopy(real.snapshot.values)
    )
    other.tensors["training.losses"][0] += 1
    other.values["training"]["elapsed_s"] += 1
    path = tmp_path / "one" / real.path.name
    shutil.copytree(real.path, path)
    checkpoints(tmp_path / "two", real.resolved, real.problem).save(AT, 1, other)
    shutil.copyfile(tmp_path / "two" / real.path.name / file, path / file)
    assert loaded(real, path.parent) is None
    assert str(path) in caplog.text


def test_a_checkpoint_without_a_digest_is_skipped_and_named(
    real: Real, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / real.path.name
    shutil.copytree(real.path, path)
    values = json.loads((path / VALUES).read_text())
    del values["digest"]
    (path / VALUES).write_text(json.dumps(values))
    assert loaded(real, tmp_path) is None
    assert str(path) in caplog.text
    assert "no digest" in caplog.text


# Forgery: the digest is right, and the state cannot be one of this run

Forge = Callable[[Snapshot], object]


def put(place: str, value: Any) -> Forge:
    """Return a change that puts a value into a place such as ``training.step``."""

    def forge(state: Snapshot) -> None:
        *path, last = place.split(".")
        inner: Any = state.values
        for key in path:
            inner = inner[int(key) if key.isdigit() else key]
        inner[int(last) if last.isdigit() else last] = value

    return forge


def drop(place: str) -> Forge:
    def forge(state: Snapshot) -> None:
        *path, last = place.split(".")
        inner: Any = state.values
        for key in path:
            inner = inner[int(key) if key.isdigit() else key]
        del inner[int(last) if last.isdigit() else last]

    return forge


def tensors(part: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Forge:
    """Return a change of the first tensor whose name contains ``part``; None removes it."""

    def forge(state: Snapshot) -> None:
        name = next(name for name in sorted(state.tensors) if part in name)
        changed = change(state.tensors[name])
        if changed is None:
            del state.tensors[name]
        else:
            state.tensors[name] = changed

    return forge


def extra(name: str) -> Forge:
    return lambda state: state.tensors.update({name: torch.zeros(2)})


FORGERIES: dict[str, Forge] = {
    "no training": drop("training"),
    "training is a list": put("training", []),
    "no best": drop("best"),
    "best is a number": put("best", 3),
    "predictions of nothing": extra("predictions.outputs"),
    "predictions of an unknown kind": extra("predictions.other"),
    "stopped is a number": put("training.stopped", 3),
    "no stopped": drop("training.stopped"),
    "no selectable": drop("best.selectable"),
    "no meter": drop("meter"),
    "meter is a list": put("meter", []),
    "no step": drop("training.step"),
    "step far beyond the run": put("training.step", 9999),
    "step just beyond the run": put("training.step", STEPS * EPOCHS + 1),
    "step of another epoch": put("training.step", AT + 2 * STEPS),
    "step before the history": put("training.step", 2),
    "step below zero": put("training.step", -1),
    "step is true": put("training.step", True),
    "step is a fraction": put("training.step", 8.5),
    "step is a text": put("training.step", "8"),
    "step is null": put("training.step", None),
    "history is empty": put("training.history", []),
    "history is null": put("training.history", None),
    "history is a text": put("training.history", "x"),
    "history holds a number": put("training.history", [1]),
    "an epoch without scores": drop("training.history.0.scores"),
    "an epoch whose scores are a list": put("training.history.0.scores", [1]),
    "an epoch whose score is a text": put("training.history.0.scores.loss", "low"),
    "an epoch whose loss is a text": put("training.history.0.train_loss", "low"),
    "an epoch whose time is null": put("training.history.0.time_s", None),
    "an epoch with more": put("training.history.0.other", 1),
    "elapsed time is a text": put("training.elapsed_s", "long"),
    "elapsed time is missing": drop("training.elapsed_s"),
    "resamples is a text": put("training.resamples", "two"),
    "frozen is a number": put("training.frozen", 3),
    "frozen names nothing": put("training.frozen", ["no.such.weight"]),
    "no generators": drop("training.random"),
    "Python's generator is null": put("training.random.python", None),
    "Python's generator is short": put("training.random.python", [3, [1, 2], None]),
    "NumPy's generator is unknown": put("training.random.numpy.0", "MT1"),
    "NumPy's generator is short": put("training.random.numpy.1", [1, 2]),
    "NumPy's generator holds a huge number": put("training.random.numpy.1.0", 10**400),
    "best epoch is beyond the history": put("best.number", 3),
    "best epoch is a text": put("best.number", "x"),
    "best score is a text": put("best.score", "x"),
    "a phase's time is a text": put("meter.time_s", {"train": "long"}),
    "a factor is missing": tensors("training.model.", lambda _: None),
    "a factor is new": extra("training.model.no.such.weight"),
    "a factor that broadcasts": tensors(".query.residual", lambda tensor: tensor[:1]),
    "a factor of one number": tensors("training.model.", lambda _: torch.tensor(1.0)),
    "a factor turned": tensors(".a", lambda tensor: tensor.T),
    "a factor of integers": tensors(".query.residual", lambda tensor: tensor.to(torch.int64)),
    "losses that broadcast": tensors("training.losses", lambda tensor: tensor[:1]),
    "no losses": tensors("training.losses", lambda _: None),
    "a moment that broadcasts": tensors("training.optimizer.exp_avg.", lambda tensor: tensor[:1]),
    "a moment of nothing": extra("training.optimizer.exp_avg.no.such.weight"),
    "a moment of one number": tensors("training.optimizer.exp_avg.", lambda _: torch.tensor(1.0)),
    "a moment of an unknown kind": extra("training.optimizer.other.classifier.dense.bias"),
    "a moment is missing": tensors("training.optimizer.exp_avg_sq.", lambda _: None),
    "torch's generator is short": tensors("training.random.torch", lambda tensor: tensor[:10]),
    "torch's generator is missing": tensors("training.random.torch", lambda _: None),
    "a best weight that broadcasts": tensors("best.roberta.encoder.", lambda tensor: tensor[:1]),
    "a best weight is missing": tensors("best.", lambda _: None),
    "a best weight is new": extra("best.no.such.weight"),
}


def forged(real: Real, forge: Forge, folder: Path) -> Path:
    """Save a changed copy of the real checkpoint, with a right digest."""
    state = Snapshot(dict(real.snapshot.tensors), copy.deepcopy(real.snapshot.values))
    forge(state)
    checkpoints(folder, real.resolved, real.problem).save(AT, 1, state)
    [path] = folder.iterdir()
    return path


def test_the_same_state_saved_again_is_loaded(real: Real, tmp_path: Path) -> None:
    forged(real, lambda _: None, tmp_path)
    found = loaded(real, tmp_path)
    assert found is not None
    assert same(found, real.snapshot)


@pytest.mark.parametrize("name", FORGERIES)
def test_a_state_that_cannot_be_one_of_this_run_is_skipped(
    real: Real, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = forged(real, FORGERIES[name], tmp_path)
    with caplog.at_level(logging.WARNING):
        assert loaded(real, tmp_path) is None
    [message] = caplog.messages
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.parametrize("shape", [(6, 2), (1, 2), (6, 1), (6, 4), (4, 2)])
def test_moments_of_a_projected_weight_have_its_projectors_columns(shape: tuple[int, int]) -> None:
    parameters = {"small": torch.zeros(4, 6), "bias": torch.zeros(4)}
    groups = [{"params": [parameters["small"]], "projectors": [torch.zeros(4, 2)], "transposed": [True]}]
    tensors = {"exp_avg.small": torch.zeros(shape), "last_norm.small": torch.zeros(()), "exp_avg.bias": torch.zeros(4)}
    with nullcontext() if shape == (6, 2) else pytest.raises(MisfitError, match="its tensor small is"):
        check_optimizer(tensors, parameters, groups)
