"""``rosa-bench report``: tables, figures and all runs on one page: a single file that needs no network."""

import gzip
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich import get_console
from rich.text import Text

from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_records
from rosa_bench.report.make_figures import draw_figures
from rosa_bench.report.make_tables import build_tables
from rosa_bench.report.page.details import details_html
from rosa_bench.report.page.run_list import FIELDS
from rosa_bench.report.writers.html import caption_html, fill, table_html
from rosa_bench.report.writers.text import MISSING
from rosa_bench.system.errors import UserError
from rosa_bench.system.files import write_atomic

if TYPE_CHECKING:
    from markupsafe import Markup

NEEDED = ("itables", "jinja2", "markdown_it")  # packages of the extra "report"
STATUSES = ("completed", "failed", "interrupted")


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
    write_atomic(path, page(records))
    get_console().print(Text(f"{counted(records)}, written to {path}"), soft_wrap=True)
    records.remind()


def page(records: Sequence[RunRecord]) -> str:
    """Return the whole document. The same records give the same text."""
    script, style = library()
    return fill(
        "page.html",
        library=b64encode(script).decode(),
        library_style=style,
        counts=counted(records),
        header=header(records),
        tables=[table_html(table) for table in build_tables(records)],
        figures=[
            (drawing.name, b64encode(drawing.picture("png")).decode(), caption_html(drawing.caption))
            for drawing in draw_figures(list(records))
        ],
        fields=FIELDS,
        runs=records,
        details=details_html,
        packed=packed,
    )


def packed(text: str) -> str:
    """Compress text for page.js to unpack: base64 of gzip without a timestamp."""
    return b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def library() -> tuple[bytes, "Markup"]:
    """Return DataTables as a JavaScript module, and its style sheet, both from itables."""
    from itables import options
    from markupsafe import Markup

    bundle = Path(options.dt_bundle)
    return bundle.read_bytes(), Markup(bundle.with_suffix(".css").read_text(encoding="utf-8"))


def counted(records: Iterable[RunRecord]) -> str:
    """Count runs by status: ``12 runs: 9 completed, 1 failed, 2 interrupted``."""
    counts = Counter(record.status for record in records)
    runs = f"{counts.total()} run{'' if counts.total() == 1 else 's'}"
    return f"{runs}: {', '.join(f'{counts[status]} {status}' for status in STATUSES)}"


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
