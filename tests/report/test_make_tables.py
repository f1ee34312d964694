import csv
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import rosa_bench
from rosa_bench.cli.commands import tables
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import save_record
from rosa_bench.report import published
from rosa_bench.report.make_tables import counted, families, make_tables
from rosa_bench.report.tables import methods, train_loss
from rosa_bench.system.errors import UserError

MakeRecord = Callable[..., RunRecord]
FILES = ["table2.csv", "table2.md", "table2.tex"]


def test_tables_are_printed_and_written(
    make_record: MakeRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_record(make_record(dev=0.567), tmp_path)
    save_record(make_record("seed=1", status="failed"), tmp_path)
    make_tables(tmp_path, write=True)
    printed = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["runs.csv", *FILES]
    assert "0.567" in (tmp_path / "tables/runs.csv").read_text()
    assert all("56.7" in (tmp_path / "tables" / name).read_text(encoding="utf-8") for name in FILES)
    assert "56.7" in printed
    assert "1 completed run; not tabled: 1 failed" in printed
    assert printed.splitlines()[-1].startswith(f"written to {tmp_path / 'tables' / 'table2.md'}")


def test_a_table_without_our_figures_is_not_made(
    make_record: MakeRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_record(make_record(), tmp_path)
    save_record(make_record("rank=8", deviations={"method.resample_every": [1, 2.0]}), tmp_path)
    make_tables(tmp_path, write=True)
    printed = capsys.readouterr().out
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == {"runs", "table2", "table4"}
    assert printed.index("Table 2: ") < printed.index("Table 4: ")
    assert "Table 5: " not in printed


def test_without_write_no_file_changes(
    make_record: MakeRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_record(make_record(), tmp_path)
    make_tables(tmp_path, write=False)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert "written" not in capsys.readouterr().out


def test_what_cannot_be_written_is_named_with_the_way_out(make_record: MakeRecord, tmp_path: Path) -> None:
    save_record(make_record(), tmp_path)
    (tmp_path / "tables").touch()  # a file, where the folder belongs
    with pytest.raises(UserError, match=r"^.*/tables.*; write=false only prints the tables$"):
        make_tables(tmp_path, write=True)
    make_tables(tmp_path, write=False)


def test_settings_restrict_what_is_printed_and_nothing_is_written(
    make_record: MakeRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_record(make_record("method=lora", dev=0.5), tmp_path)
    save_record(make_record("method=ft", dev=0.625), tmp_path)
    save_record(make_record("method=ft", "protocol=fair", dev=0.75), tmp_path)
    tables.main([f"results_dir={tmp_path}", "method=ft"])
    printed = capsys.readouterr().out
    assert ("62.5" in printed, "75.0" in printed, "50.0" in printed) == (True, True, False)
    assert "2 completed runs" in printed and not (tmp_path / "tables").exists()
    tables.main([f"results_dir={tmp_path}", "write=false"])
    first = capsys.readouterr().out
    assert "... and 1 more; rosa-bench tables --all prints it" in first
    tables.main([f"results_dir={tmp_path}", "write=false", "--all"])
    assert "... and" not in capsys.readouterr().out
    with pytest.raises(UserError, match="no run has all of: method=lora protocol=fair"):
        tables.main([f"results_dir={tmp_path}", "method=lora", "protocol=fair"])
    with pytest.raises(UserError, match="write=true is for the tables of all runs"):
        tables.main([f"results_dir={tmp_path}", "method=lora", "write=true"])


def test_tables_are_deterministic(make_record: MakeRecord, tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        save_record(make_record(), tmp_path)
        make_tables(tmp_path, write=True)
        texts.append([(tmp_path / "tables" / name).read_bytes() for name in FILES])
    assert texts[0] == texts[1]


def test_errors_never_appear_among_scores(
    make_record: MakeRecord, make_synthetic: MakeRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_record(make_record("task=cola", dev=0.567), tmp_path)
    make_tables(tmp_path, write=True)
    alone = [(tmp_path / "tables" / name).read_bytes() for name in FILES]
    printed = capsys.readouterr().out.partition("\n1 completed run\n")[0]
    for model in ("mlp1", "mlp2"):
        save_record(make_synthetic([[0.5, 0.25]], f"model={model}"), tmp_path)
    make_tables(tmp_path, write=True)
    assert [(tmp_path / "tables" / name).read_bytes() for name in FILES] == alone
    both = capsys.readouterr().out
    assert both.startswith(printed)
    assert "errors of the regressions" in both.removeprefix(printed)
    assert "3 completed runs" in both


def test_a_loss_of_references_is_in_tables_of_its_own(
    make_written: MakeRecord, make_referenced: MakeRecord, tmp_path: Path
) -> None:
    """Table 3 is the same, to the byte, whether or not the model also has runs that write no texts."""
    written = [make_written([9.0], f"method={method}", "protocol=fair") for method in ("ft", "lora")]
    silent = [make_referenced(loss, f"method={method}") for loss, method in ((1.25, "lora"), (1.5, "ft"))]
    silent += [make_referenced(1.0, f"method={method}", metric="perplexity") for method in ("lora", "ft")]
    files = []
    for runs in (written, silent):
        for run in runs:
            save_record(run, tmp_path)
        make_tables(tmp_path, write=True)
        files.append({path.name: path.read_bytes() for path in (tmp_path / "tables").iterdir()})
    apart, both = files
    assert {name for name in both if both[name] != apart.get(name)} == {
        "references.md", "references.tex", "references.csv", "runs.csv",
        "train_loss.md", "train_loss.tex", "train_loss.csv",
    }  # fmt: skip
    rows = list(csv.DictReader(both["references.csv"].decode().splitlines()))
    assert {(row["setting"], row["variant"], float(row["loss"])) for row in rows} == {
        ("1", "LoRA (r=8)", 1.25), ("1", "FT", 1.5), ("2", "LoRA (r=8)", 1.0), ("2", "FT", 1.0)
    }  # fmt: skip
    assert float(rows[0]["perplexity"]) == pytest.approx(math.exp(float(rows[0]["loss"])), rel=1e-5)


def test_every_run_is_in_one_family_of_tables(every_kind: list[RunRecord]) -> None:
    """And in those of the fits and of the methods, if it can be compared there."""
    found = families(every_kind)
    again = (train_loss.build,), (methods.build,)
    apart = [some for some, builders in found if builders not in again]
    assert sorted(run.id for some in apart for run in some) == sorted(run.id for run in every_kind)
    assert all(some for some in apart)
    [compared] = [some for some, builders in found if builders == (methods.build,)]
    kinds = {(run.settings.task.name, run.scores.reported) for run in compared}
    assert kinds == {("cola", "matthews_correlation"), ("e2e_nlg", "bleu"), ("e2e_nlg", "loss")}
    [fitted] = [some for some, builders in found if builders == (train_loss.build,)]
    left = [run for run in every_kind if run not in fitted]
    assert left and {run.settings.task.name for run in left} == {"phonebook"}


def test_only_timed_runs_of_another_task_give_no_table(make_record: MakeRecord, tmp_path: Path) -> None:
    padded = {"pad_to_max": [True, False]}
    save_record(make_record("task=rte", "pad_to_max=true", deviations=padded), tmp_path)
    with pytest.raises(UserError, match=r"1 completed run; not tabled: .*, all with pad_to_max=true.*pad_to_max=false"):
        make_tables(tmp_path, write=True)
    assert not (tmp_path / "tables").exists()


@pytest.mark.parametrize("status", [None, "failed"])
def test_no_completed_run_gives_a_one_line_error(make_record: MakeRecord, tmp_path: Path, status: str | None) -> None:
    if status:
        save_record(make_record(status=status), tmp_path)
    with pytest.raises(UserError, match=r"run something first.*results_dir=") as caught:
        make_tables(tmp_path, write=True)
    assert "\n" not in str(caught.value)
    assert ("1 failed" in str(caught.value)) == (status is not None)
    assert not (tmp_path / "tables").exists()


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["completed"], "1 completed run"),
        (["completed"] * 2, "2 completed runs"),
        (["completed", "interrupted", "failed", "failed"], "1 completed run; not tabled: 2 failed, 1 interrupted"),
    ],
)
def test_counted(make_record: MakeRecord, statuses: list[str], expected: str) -> None:
    assert counted([make_record(status=status) for status in statuses]) == expected


def test_the_report_does_not_import_torch() -> None:
    heavy = ("torch", "transformers", "datasets", "evaluate")
    program = f"import sys, rosa_bench.report.make_tables; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_papers_tables_are_found_in_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rosa_bench, "__path__", [str(tmp_path / "rosa_bench")])
    assert published.published_folder() == tmp_path / "results" / "published"
    (tmp_path / "rosa_bench" / "published").mkdir(parents=True)
    assert published.published_folder() == tmp_path / "rosa_bench" / "published"
