"""Choices on the page: the answers of ``rosa-bench choose``, as text that anybody may have written."""

import re
from pathlib import Path

from rosa_bench.report.page.choices import recommended
from rosa_bench.report.writers.html import caption_html

ANSWER = """# Use lora rank 2 lr 0.006

```bash
# a comment stays
rosa-bench task=classify
```

- against ft lr 6e-05: +50.6 [+31.3, +69.8], better

## Finalists

| | accuracy |
| --- | ---: |
| lora | 98.1 |
"""


def test_an_answer_is_shown_with_its_headings_below_those_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "choose").mkdir()
    (tmp_path / "choose/reviews.md").write_text(ANSWER, encoding="utf-8")
    (tmp_path / "choose/reviews.json").write_text("{}", encoding="utf-8")
    [found] = recommended(tmp_path)
    assert (found.id, found.title) == ("reviews", "Use lora rank 2 lr 0.006")
    text = str(found.answer)
    assert "<h5>Finalists</h5>" in text
    assert "# a comment stays" in text
    assert "<td>lora</td>" in text
    assert "<h1>" not in text and "<h2>" not in text


def test_a_choice_without_an_answer_is_named(tmp_path: Path) -> None:
    (tmp_path / "choose").mkdir()
    (tmp_path / "choose/begun.json").write_text("{}", encoding="utf-8")
    [found] = recommended(tmp_path)
    assert (found.title, found.answer) == ("begun", None)
    assert list(recommended(tmp_path / "elsewhere")) == []


def test_all_headings_move_down_and_code_stays() -> None:
    text = caption_html("# a\n\nb\n=\n\n##### c\n\n~~~\n# d\n~~~\n\n    # e\n", lower=3)
    assert re.findall("<(h.)>(.)</h.>", text) == [("h4", "a"), ("h4", "b"), ("h6", "c")]
    assert "# d" in text and "# e" in text
