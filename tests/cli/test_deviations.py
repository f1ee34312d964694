import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from rosa_bench.api import _composed
from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.identity.run_id import free_settings, public_config
from rosa_bench.records.record import RunRecord
from rosa_bench.report.next import next_commands
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.system.errors import UserError

Deviations = list[dict[str, list[Any]]]


def deviations(*arguments: str) -> Deviations:
    """Return the deviations of a run in a list; nothing is run."""
    return [_composed(arguments)[1]]


@pytest.fixture
def listed(rosa_bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Deviations]:
    """List the deviations that each job of a command line would record; nothing is run."""

    def jobs(*arguments: str) -> Deviations:
        found = []

        def resolve(_config: object, deviations: dict[str, list[Any]], **_options: object) -> ResolvedRun:
            found.append(deviations)
            raise UserError("far enough")

        # Planning sets up every job of a sweep; and first of the two, or it would be imported with the other in it.
        monkeypatch.setattr("rosa_bench.runs.planning.plan.plan", lambda *_: [])
        monkeypatch.setattr("rosa_bench.runs.resolve.resolve", resolve)
        assert "far enough" in rosa_bench(*arguments).err
        return found

    return jobs


FREE = (
    "rank=2", "lr=1e-3", "seed=3", "accumulate=2", "precision=float32", "device=cpu", "data_dir=d", "output_dir=o",
    "results_dir=r", "resume=never", "retry_failed=true", "checkpoint_s=5", "save_model=true",
    "logger.project=p", "record_spectrum=true",
)  # fmt: skip


@pytest.mark.parametrize(("arguments", "expected"), [
    (["task=cola"], {}),
    (["protocol=fair", "method=lora"], {}),
    (["task=stsb", "model=mpnet_base", "method=ia3"], {}),
    (FREE, {}),
    (["method=lora", *FREE], {}),
    (["epochs=3"], {"epochs": [3, 10]}),
    (["epochs=10", "method.resample_every=2"], {}),
    (["method.resample_every=1"], {"method.resample_every": [1, 2.0]}),
    (["epochs=3", "method.resample_every=1", *FREE], {"epochs": [3, 10], "method.resample_every": [1, 2.0]}),
    (["method=lora", "rank=4", "method.alpha=8"], {"method.alpha": [8, 4]}),
    (["limit_train=64"], {"limit_train": [64, None]}),
    (["optimizer.betas=[0.9,0.999]"], {"optimizer.betas": [[0.9, 0.999], [0.9, 0.98]]}),
    (["protocol=fair", "protocol.held_out_rows=0.2"], {"protocol.held_out_rows": [0.2, 0.1]}),
    (
        ["method=lora", "protocol.train_head=true"],
        {"protocol.train_head": [True, False], "method.train_head": [True, False]},
    ),
])  # fmt: skip
def test_deviations_from_the_protocol_are_listed_with_its_value(
    arguments: list[str], expected: dict[str, list[Any]]
) -> None:
    assert deviations(*arguments) == [expected]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [
    ["task=rte", "method=lora", "rank=2", "protocol=fair"],
    ["method=rosa", "method.select=block", "method.resample_every=0.5", "epochs=3", "optimizer.betas=[0.8,0.9]"],
    ["method=ia3", "limit_train=100", "method.targets='attention\\.self\\.(query|key)'", "method.train_head=true"],
    ["protocol=fair", "method=bitfit", "optimizer.warmup_steps=7", "optimizer.clip_norm=null"],
    ["task=e2e_nlg", "method=lora", "optimizer.warmup_steps=null"],
])  # fmt: skip
def test_the_commands_of_next_compose_to_the_same_settings(
    listed: Callable, compose: Callable, make_record: Callable[..., RunRecord], arguments: list[str]
) -> None:
    [changed] = deviations(*arguments)
    record = make_record(*arguments, "seed=4", deviations=changed)
    [command] = next_commands([record], seeds=1)
    _, _, *overrides = shlex.split(command)
    assert listed("-m", *overrides) == [changed, changed]  # at two learning rates
    *setting, lr, seed = overrides
    assert (lr.partition("=")[0], seed) == ("lr", "seed=4")
    assert public_config(compose(*setting, f"lr={record.config['lr']}", seed)) == record.config


@pytest.mark.parametrize("path", sorted((conf_folder() / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_deviates_in_what_its_file_sets_and_nothing_else(
    path: Path,
) -> None:
    own = {
        key: value for key, value in OmegaConf.load(path).items() if key not in ("defaults", "hydra", *free_settings())
    }
    [found] = deviations(f"+experiment={path.stem}")
    plain = {key: value for key, (value, _) in found.items() if "." not in key}
    assert plain == {key: value for key, value in own.items() if not OmegaConf.is_config(value)}
    assert {key.split(".")[0] for key in found} <= {*own, *own.get("default", {})}


def test_each_job_of_a_sweep_has_its_own_deviations(listed: Callable) -> None:
    assert listed("rank=2", "epochs=3") == [{"epochs": [3, 10]}]
    assert listed("-m", "epochs=10,3", "rank=2,4") == [{}, {}, {"epochs": [3, 10]}, {"epochs": [3, 10]}]
