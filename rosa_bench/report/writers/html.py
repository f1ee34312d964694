"""Write a table or a caption as HTML. Text becomes markup only in ``templates/``, which escape everything."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rosa_bench.report.tables.building.table import Table
from rosa_bench.report.writers.markdown import CONTRAST_HEAD, column_text, contrast_texts, count_text, note_text
from rosa_bench.report.writers.text import MISSING
from rosa_bench.system.text.printable import printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def table_html(table: Table) -> "Markup":
    """Render a table: each section with its header, figures, notes and comparisons."""
    return fill("table.html", table=table)


def caption_html(caption: str, *, lower: int = 0) -> "Markup":
    """Render Markdown, such as a figure's caption, with its headings ``lower`` by so many levels.

    Emphasis, lists, headings, code and tables become markup; links and images stay text.
    """
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    tokens = reader.parse(caption)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + lower)}"
    return Markup(reader.renderer.render(tokens, reader.options, {}))


def fill(template: str, **values: object) -> "Markup":
    """Fill in a template from ``templates/``. Values that are not `Markup` are escaped."""
    from markupsafe import Markup

    return Markup(_environment().get_template(template).render(values))


def _shown(value: object) -> object:
    """Return what a template shows of a value: a text with its invisible characters as escapes."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return printable(value, keep="\n\t")
    return value


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent.parent / "page" / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.globals |= {  # pyrefly: ignore[bad-assignment]
        "MISSING": MISSING,
        "CONTRAST_HEAD": CONTRAST_HEAD,
        "column_text": column_text,
        "contrast_texts": contrast_texts,
        "count_text": count_text,
        "note_text": note_text,
        "zip": zip,
    }
    return environment
