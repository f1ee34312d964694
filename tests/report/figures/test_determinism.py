"""The same records give the same pictures, whatever was drawn before and whatever the environment says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import save_record
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.figures.drawing import Drawing
from rosa_bench.report.figures.paper import figure3

PROGRAM = """
import random, sys
from pathlib import Path
from rosa_bench.records.store import load_records
from rosa_bench.report.make_figures import draw_figures
records = list(load_records(Path(sys.argv[1])))
random.Random(int(sys.argv[3])).shuffle(records)
for number, drawing in enumerate(draw_figures(records)):
    drawing.write(Path(sys.argv[2]), ("svg", "png", "pdf") if number % 4 == 0 else ("svg",))
"""
# What plotting libraries, notebooks, terminals and build tools set, and a user's own style in the current folder.
ELSEWHERE = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline_that_is_missing",
    "SOURCE_DATE_EPOCH": "86400",
    "LC_ALL": "de_DE.UTF-8",
    "COLUMNS": "33",
    "FORCE_COLOR": "1",
    "TERM": "dumb",
}
STYLE = (
    "font.size: 30\nlines.linewidth: 9\nsavefig.bbox: tight\ntext.usetex: True\nsvg.fonttype: none\naxes.grid: True\n"
)


def drawing(records: list[RunRecord]) -> Drawing:
    made = figure3.draw(select(records))
    assert made is not None
    return made


@pytest.mark.slow
def test_a_picture_does_not_depend_on_those_drawn_before_it(every_kind: list[RunRecord]) -> None:
    first, second = drawing(every_kind), drawing(every_kind)
    svg = first.picture("svg")
    second.picture("png")
    assert second.picture("svg") == svg
    assert second.picture("svg") == svg
    assert first.picture("png") == second.picture("png")


@pytest.mark.slow
def test_pictures_are_the_same_bytes_in_another_process_and_environment(
    every_kind: list[RunRecord], tmp_path: Path
) -> None:
    for number, run in enumerate(every_kind):
        run.id = f"run-{number}"
        save_record(run, tmp_path / "results")

    def drawn(name: str, seed: int, **environment: str) -> dict[str, bytes]:
        folder = tmp_path / name
        folder.mkdir()
        if environment:
            (folder / "matplotlibrc").write_text(STYLE)
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "results"), str(folder / "figures"), str(seed)]
        known = {key: value for key, value in os.environ.items() if key not in ELSEWHERE}
        subprocess.run(command, check=True, cwd=folder, env={**known, "PYTHONHASHSEED": str(seed), **environment})
        return {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}

    here, there = drawn("here", 1), drawn("there", 2, **ELSEWHERE)
    assert {"figure2.svg", "figure3.svg", "figure5.svg", "resampling.md"} <= here.keys()
    assert {"png", "pdf"} <= {name.rpartition(".")[2] for name in here}
    assert [name for name in here if here[name] != there.get(name)] == []
    assert here.keys() == there.keys()
