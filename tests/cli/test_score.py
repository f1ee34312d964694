import io
from pathlib import Path

import pytest
from rich.console import Console

from rosa_bench.cli.commands.score import COLUMNS, show_scores
from rosa_bench.metrics.text_overlap import SCORES, SIGNATURE
from rosa_bench.records.generations import Generation, to_lines
from rosa_bench.system.errors import UserError

ROWS = [
    Generation(prompt="a", output="A b c d e", references=("a b c d e", "x")),
    Generation(prompt="b", output="f g h i j", references=("f g h i j", "y", "z")),
]


def shown(*paths: Path, width: int = 200) -> list[str]:
    file = io.StringIO()
    show_scores(list(paths), Console(file=file, width=width))
    return [line.strip() for line in file.getvalue().splitlines() if line.strip()]


def test_every_score_has_a_column() -> None:
    assert tuple(COLUMNS) == SCORES


def test_scores_are_in_per_cent_nist_in_bits_and_their_signature_follows(tmp_path: Path) -> None:
    path = tmp_path / "[red].jsonl"  # which rich must not take for a colour
    path.write_text(to_lines(ROWS), encoding="utf-8")
    head, _, row, *signature = shown(path)
    assert head.split() == ["generations", "inputs", "references", "BLEU", "BLEU,", "cased", "NIST"]
    # Cased: 9 of 10 words, 7 of 8, 5 of 6, 3 of 4. NIST: of 13 words all different, which so tell log2(13) bits each.
    cased = (9 / 10 * 7 / 8 * 5 / 6 * 3 / 4) ** (1 / 4)
    assert row.split() == [str(path), "2", "2", "to", "3", "100.00", f"{100 * cased:.2f}", "3.70"]
    assert signature == SIGNATURE.split("; ")


def test_each_file_has_a_row_and_equal_reference_counts_are_shown_once(tmp_path: Path) -> None:
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for path, row in zip(paths, ROWS, strict=True):
        path.write_text(to_lines([row]), encoding="utf-8")
    _, _, one, two, *_ = shown(*paths)
    assert one.split()[:3] == [str(paths[0]), "1", "2"]
    assert two.split()[:3] == [str(paths[1]), "1", "3"]


def test_a_long_name_is_folded_and_never_cut(tmp_path: Path) -> None:
    path = tmp_path / f"{'name' * 20}.jsonl"
    path.write_text(to_lines(ROWS), encoding="utf-8")
    lines = shown(path, width=80)
    assert all(len(line) <= 80 for line in lines)
    rule = next(index for index, line in enumerate(lines) if line.startswith("─"))
    assert "".join(line.split()[0] for line in lines[rule + 1 : -len(SCORES)]) == str(path)


def test_nothing_is_shown_if_one_file_is_bad(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text(to_lines(ROWS), encoding="utf-8")
    bad.write_text("", encoding="utf-8")
    file = io.StringIO()
    with pytest.raises(UserError, match=r"bad\.jsonl is empty"):
        show_scores([good, bad], Console(file=file))
    assert not file.getvalue()
