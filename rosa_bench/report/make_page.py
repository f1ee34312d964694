"""``rosa-bench report``: tables, figures and all runs on one page: a single file that needs no network."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from rich import get_console
from rich.text import Text

from rosa_bench.records.parts.types import STATUSES
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_records
from rosa_bench.report.make_figures import draw_figures
from rosa_bench.report.make_tables import build_tables
from rosa_bench.report.page.answer import best_variants, tally, verdicts
from rosa_bench.report.page.choices import Recommended, recommended
from rosa_bench.report.page.packing import packed, packed_runs
from rosa_bench.report.page.pictures import pictures
from rosa_bench.report.page.run_list import FIELDS
from rosa_bench.report.page.script import library, page_script, policy
from rosa_bench.report.writers.html import fill, table_html
from rosa_bench.report.writers.text import MISSING, thousands
from rosa_bench.system.errors import UserError
from rosa_bench.system.files.atomic import write_atomic

NEEDED = ("itables", "jinja2", "markdown_it")  # packages of the extra "report"


def make_report(results_dir: Path) -> None:
    """Write a page about the records under ``results_dir`` to its ``report.html``.

    Files that are not records are skipped and named in the log. Raises `UserError` if there are no records, or if a
    package of the extra ``report`` is missing.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(f'rosa-bench report needs {", ".join(missing)}; install with: pip install "rosa-bench[report]"')
    records = load_records(results_dir)
    if not records:
        raise UserError(
            f"results_dir={results_dir} has no runs; run something first, for example rosa-bench task=cola, "
            "or set results_dir= to the folder that contains runs/"
        )
    path = results_dir / "report.html"
    write_atomic(path, page(records, recommended(results_dir)))
    get_console().print(Text(f"{counted(records)}, written to {path}"), soft_wrap=True)
    records.remind()


def page(records: Sequence[RunRecord], choices: Iterable[Recommended] = ()) -> str:
    """Return the whole document. The same records and choices give the same text."""
    code, style = library()
    script = page_script()
    answers = verdicts(records)
    headline, others = pictures(draw_figures(list(records)))
    return fill(
        "page.html",
        policy=policy(script),
        library=packed(code),
        library_style=style,
        script=script,
        counts=counted(records),
        header=header(records),
        verdicts=answers,
        tally=tally(answers),
        best=best_variants(records),
        headline=headline,
        figures=others,
        tables=[(table.name, table.title, table_html(table)) for table in build_tables(records)],
        choices=list(choices),
        fields=FIELDS,
        runs=packed_runs(records),
    )


def counted(records: Iterable[RunRecord]) -> str:
    """Count runs by status: ``12 runs: 9 completed, 3 failed``."""
    counts = Counter(record.status for record in records)
    runs = f"{thousands(counts.total())} run{'' if counts.total() == 1 else 's'}"
    return f"{runs}: {', '.join(f'{thousands(counts[status])} {status}' for status in STATUSES if counts[status])}"


def header(records: Iterable[RunRecord]) -> dict[str, str]:
    """Say when the runs were made, on which devices, and with which package versions."""
    days = sorted({record.started_at[:10] for record in records})
    versions: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for package, version in record.versions.items():
            versions[package].add(version)
    return {
        "Started": " to ".join(dict.fromkeys((days[0], days[-1]))),
        "Devices": ", ".join(sorted({record.device.name for record in records})),
        "Versions": "; ".join(f"{package} {', '.join(sorted(some))}" for package, some in versions.items()) or MISSING,
    }
