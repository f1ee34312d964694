"""The paper's tables, typed in again independently from the paper."""

import re
from typing import Any

import pytest

from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.identity.defaults import defaults_of
from rosa_bench.report.published import load_published, published_folder

NAMES = ("table1", "table2", "table3", "table4", "table5")

TABLE2 = """
                CoLA   MRPC   QNLI   RTE    STS-B  MNLI    SST2   BoolQ
ft    -    125  63.50  89.95  92.60  77.62  90.69  86.296  94.38  82.11
ia3   -    0.1  55.18  87.50  82.52  68.59  88.41  77.06   92.55  73.85
lora  2    0.2  53.42  88.72  92.10  72.56  83.91  85.37   93.69  72.96
rosa  2    0.2  62.08  89.46  92.20  73.64  89.32  86.25   92.55  76.78
lora  8    0.6  54.27  88.24  92.20  69.31  82.10  85.88   93.57  68.37
rosa  8    0.6  64.80  88.73  92.80  72.56  90.11  87.09   93.11  77.31
"""

# (method, rank, settings) -> trainable parameters in millions, figures
OTHERS = {
    "table1": [
        ("ft", None, {}, None, ["-", "157 ± 0.16"]),
        ("lora", None, {}, None, ["-", "152 ± 0.56"]),
        ("rosa", None, {}, None, ["4.03 ± 3.67", "153 ± 0.16"]),
    ],
    "table3": [
        ("ft", None, {}, "355", ["68"]),
        ("ia3", None, {}, "0.2", ["65"]),
        ("lora", 4, {}, "0.9", ["64"]),
        ("rosa", 4, {}, "0.9", ["68"]),
        ("lora", 8, {}, "1.7", ["67"]),
        ("rosa", 8, {}, "1.7", ["67"]),
    ],
    "table4": [
        ("ft", None, {}, None, ["63.52", "90.69"]),
        ("lora", 8, {}, None, ["54.27", "82.10"]),
        ("rosa", 8, {"method.init": "svd_add", "method.resample_every": 0}, None, ["57.08", "89.19"]),
        ("rosa", 8, {"method.resample_every": 0}, None, ["60.32", "89.42"]),
        ("rosa", 8, {"method.resample_every": 1}, None, ["64.80", "90.11"]),
    ],
    "table5": [
        ("ft", None, {}, "125", ["63.52"]),
        ("rosa", 8, {"method.select": "top", "method.resample_every": 0}, "0.6", ["58.88"]),
        ("rosa", 8, {"method.select": "bottom", "method.resample_every": 0}, "0.6", ["60.57"]),
        ("rosa", 8, {"method.resample_every": 0}, "0.6", ["60.32"]),
    ],
}


def test_table_2_matches_the_paper() -> None:
    head, *rows = (line.split() for line in TABLE2.strip().splitlines())
    table = load_published("table2")
    assert list(table.columns.values()) == head
    assert [
        [row.method, str(row.rank or "-"), row.trainable_millions, *row.figures.values()] for row in table.rows
    ] == rows


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_tables_match_the_paper(name: str) -> None:
    rows = load_published(name).rows
    assert [
        (row.method, row.rank, row.settings, row.trainable_millions, list(row.figures.values())) for row in rows
    ] == OTHERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_every_column(name: str) -> None:
    table = load_published(name)
    assert all(list(row.figures) == list(table.columns) for row in table.rows)
    assert len({row.variant(None) for row in table.rows}) == len(table.rows)


@pytest.mark.parametrize("name", ["table2", "table4", "table5"])
def test_columns_and_methods_exist_in_our_configuration(name: str) -> None:
    table = load_published(name)
    assert all((conf_folder() / "task" / f"{task}.yaml").is_file() for task in table.columns)
    assert all((conf_folder() / "method" / f"{row.method}.yaml").is_file() for row in table.rows)


@pytest.mark.parametrize("name", ["table4", "table5"])
def test_settings_exist_in_the_method(name: str) -> None:
    for row in load_published(name).rows:
        text = (conf_folder() / "method" / f"{row.method}.yaml").read_text(encoding="utf-8")
        assert all(re.search(rf"^{key.removeprefix('method.')}:", text, re.MULTILINE) for key in row.settings)


def test_oddities_are_noted() -> None:
    notes = " ".join(load_published("table5").notes)
    assert "MRPC" in notes
    assert "CoLA" in notes
    assert "Table 4" in notes
    random, factorize = load_published("table5").rows[3], load_published("table4").rows[3]
    assert random.figures["cola"] == factorize.figures["cola"]


def test_there_are_five_tables_of_the_paper_and_one_of_pefts() -> None:
    assert {path.stem for path in published_folder().glob("*.yaml")} == {*NAMES, "peft_method_comparison"}


@pytest.mark.parametrize(
    ("name", "task", "protocol", "changes"),
    [
        ("table2", "cola", "paper", [{}]),
        ("table2", "cola", "fair", [{"method.resample_every": 2}]),
        ("table3", "e2e_nlg", "paper", [{}]),
        ("table3", "e2e_nlg", "fair", [{"method.resample_every": 1}]),
        ("table4", "cola", "fair", [{"method.init": "svd_add"}, {}, {"method.resample_every": 1}]),
        ("table5", "cola", "fair", [{"method.select": "top"}, {"method.select": "bottom"}, {}]),
    ],
)
def test_a_row_is_what_the_paper_ran_whatever_the_default(
    name: str, task: str, protocol: str, changes: list[dict[str, Any]]
) -> None:
    model = "gpt2_medium" if task == "e2e_nlg" else "roberta_base"
    defaults = defaults_of(task, model, "rosa", protocol)
    assert defaults is not None
    rows = [row.variant(defaults) for row in load_published(name).rows if row.method == "rosa"]
    found = [{change.key: change.value for change in variant.changes} for variant in rows]
    assert list(dict.fromkeys(map(str, found))) == list(map(str, changes))
