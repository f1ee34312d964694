import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from rosa_bench.config.schema import RunConfig
from rosa_bench.records.parts.mappings import Seconds
from rosa_bench.records.store import load_records, save_record
from rosa_bench.runs.planning.plan import Job, epoch_times_s, estimate_s, plan, show, with_weights
from rosa_bench.runs.resolve import resolve
from rosa_bench.runs.run import run
from rosa_bench.system.errors import UserError
from rosa_bench.system.hub.cache import Repository

TINY = ("task=grammar", "model=tiny_roberta", "device=cpu", "epochs=1", "limit_train=16", "limit_eval=8")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def kinds(jobs: list[Job]) -> Counter:
    return Counter(job.kind for job in jobs)


def shown(jobs: list[Job]) -> str:
    text = io.StringIO()
    show(jobs, Console(file=text, width=200))
    return text.getvalue()


def test_a_plan_lists_the_runs_of_a_sweep_without_running_them(compose: Callable[..., RunConfig]) -> None:
    jobs = plan([*TINY, "method=lora,rosa", "rank=2,4"], str)
    expected = [
        resolve(compose(*TINY, f"method={method}", f"rank={rank}"), {}).id
        for method in ("lora", "rosa")
        for rank in (2, 4)
    ]
    assert [job.resolved.id for job in jobs if job.resolved] == expected
    assert kinds(jobs) == {"new": 4}
    assert not list(Path().rglob("*.json"))


def test_ranks_are_duplicates_for_a_method_without_a_rank() -> None:
    jobs = plan([*TINY, "method=ft,lora", "rank=2,4,8"], str)
    assert [(job.overrides[-2], job.kind) for job in jobs if job.kind == "duplicate"] == [
        ("method=ft", "duplicate")
    ] * 2
    assert kinds(jobs) == {"new": 4, "duplicate": 2}


def test_table_3_has_24_distinct_runs() -> None:
    """Two methods have no rank, so 8 of the 32 combinations repeat another."""
    jobs = plan(["+experiment=table3", "model=tiny_gpt2", "task=restaurants", "device=cpu"], str)
    assert kinds(jobs) == {"new": 24, "duplicate": 8}
    assert {job.resolved.config.protocol.name for job in jobs if job.resolved} == {"paper"}
    assert "32 jobs: 24 new, 8 duplicate; 24 to run" in shown(jobs)
    assert "\n1 job: 1 new; 1 to run" in shown(jobs[:1])


def test_completed_and_failed_jobs_are_shown(compose: Callable[..., RunConfig]) -> None:
    record = run(resolve(compose(*TINY, "method=ft"), {}))
    other = resolve(compose(*TINY, "method=lora", "rank=2"), {})
    save_record(replace(record, id=other.id, status="failed", error="the loss is nan at step 3"), Path("results"))
    jobs = plan([*TINY, "method=ft,lora", "rank=2,4"], str)
    assert kinds(jobs) == {"completed": 1, "duplicate": 1, "failed": 1, "new": 1}
    text = shown(jobs)
    assert "the loss is nan at step 3" in text
    assert "4 jobs: " in text
    assert "1 to run" in text


def test_jobs_that_run_again_count_as_jobs_to_run(compose: Callable[..., RunConfig]) -> None:
    record = run(resolve(compose(*TINY, "method=ft"), {}))
    other = resolve(compose(*TINY, "method=ft", "seed=1"), {})
    save_record(replace(record, id=other.id, status="failed", error="the loss is nan at step 3"), Path("results"))
    save_record(replace(record, time_s=Seconds(total=3600.0)), Path("results"))
    sweep = [*TINY, "method=ft", "seed=0,1"]
    assert "1 completed, 1 failed; nothing to run" in shown(plan(sweep, str))
    text = shown(plan([*sweep, "retry_failed=true"], str))
    assert "1 completed, 1 failed; 1 to run, one after another: about 1 h" in text
    text = shown(plan([*sweep, "resume=never"], str))
    assert "1 completed, 1 failed; 2 to run, one after another: about 2 h" in text


def test_an_invalid_job_is_reported_and_the_others_are_kept() -> None:
    jobs = plan([*TINY, "rank=0,2"], str)
    assert kinds(jobs) == {"invalid": 1, "new": 1}
    [wrong] = [job for job in jobs if job.kind == "invalid"]
    assert "rank=0 is out of range" in wrong.reason
    assert wrong.resolved is None


def test_a_damaged_record_is_reported_in_the_plan_and_a_foreign_file_is_skipped(
    compose: Callable[..., RunConfig], caplog: pytest.LogCaptureFixture
) -> None:
    damaged = resolve(compose(*TINY, "method=ft", "seed=1"), {}).record_path
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    (damaged.parent / "notes.json").write_text("[]")
    jobs = plan([*TINY, "method=ft", "seed=0,1,2"], str)
    assert [job.kind for job in jobs] == ["new", "invalid", "new"]
    assert f"{damaged} is not a run's record" in jobs[1].reason
    assert "3 jobs: 2 new, 1 invalid; 2 to run" in shown(jobs)
    assert [message.partition(" is not a run's record")[0] for message in caplog.messages] == [
        str(damaged),
        str(damaged.parent / "notes.json"),
        "2 of 2 files of these tasks and models in results/runs could not be read; see above",
    ]


def test_a_plan_does_not_read_records_of_other_tasks(
    compose: Callable[..., RunConfig], caplog: pytest.LogCaptureFixture
) -> None:
    other = resolve(compose("task=restaurants", "model=tiny_gpt2", "method=ft"), {}).record_path
    other.parent.mkdir(parents=True)
    other.write_text("{")
    assert "1 to run" in shown(plan([*TINY, "method=ft"], str))
    assert caplog.messages == []
    assert load_records(Path("results")).unread.startswith("1 of 1 files in results/runs")


def test_an_estimate_scales_similar_runs_by_epochs(compose: Callable[..., RunConfig]) -> None:
    record = run(resolve(compose(*TINY, "method=ft"), {}))
    alike = [replace(record, time_s=Seconds(total=seconds)) for seconds in (2.0, 4.0)]
    longer = resolve(compose(*TINY, "method=ft", "epochs=5"), {})
    assert estimate_s(longer, epoch_times_s(alike)) == pytest.approx(15.0)
    elsewhere = replace(alike[0], device=replace(record.device, type="cuda"))
    assert estimate_s(longer, epoch_times_s([replace(alike[0], status="failed"), elsewhere])) is None
    for change in ("method=lora", "model=tiny_bert", "limit_train=17", "pad_to_max=true"):
        assert estimate_s(resolve(compose(*TINY, "method=ft", change), {}), epoch_times_s(alike)) is None


def test_time_left_counts_only_jobs_still_to_run(compose: Callable[..., RunConfig]) -> None:
    record = run(resolve(compose(*TINY, "method=ft"), {}))
    save_record(replace(record, time_s=Seconds(total=3600.0)), Path("results"))
    text = shown(plan([*TINY, "method=ft", "seed=0,1,2"], str))
    assert "2 to run, one after another: about 2 h" in text
    assert "1 to run, one after another: not known" in shown(plan([*TINY, "method=lora"], str))
    assert "nothing to run" in shown(plan([*TINY, "method=ft"], str))


def test_weights_that_cannot_be_fetched_are_found_once_and_only_if_none_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(repository: Repository, *_: object, what: str, **__: object) -> None:
        asked.append(repository.id)
        raise UserError(f"{what} is out of reach")

    monkeypatch.setattr("rosa_bench.models.weights.hub.fetch", fetch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    jobs = plan(["task=grammar", "model=roberta_base,tiny_roberta", "method=lora,bitfit", "device=cpu"], str)
    assert kinds(jobs) == {"new": 4}
    found = with_weights(jobs, str)
    assert [job.kind for job in found] == ["invalid", "invalid", "new", "new"]
    assert {job.reason for job in found[:2]} == {"model=roberta_base is out of reach"}
    assert asked == ["FacebookAI/roberta-base"]

    cached, commit = tmp_path / "cache" / "models--FacebookAI--roberta-base", "0" * 40
    for path, text in (("refs/main", commit), (f"snapshots/{commit}/config.json", "{}")):
        (cached / path).parent.mkdir(parents=True)
        (cached / path).write_text(text)
    assert with_weights(jobs, str) == jobs
    assert len(asked) == 1
