"""Names become parts of file names, so they are checked where they are declared."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rosa_bench.config.schema import RunConfig
from rosa_bench.system.errors import UserError
from rosa_bench.system.text.names import check_name

GOOD = ("cola", "tiny_bert", "lora+", "a.b-c", "modèle", "x" * 48, "2026")
BAD = (
    "", ".", "..", "../../../escape", "a/b", "/etc", "a\\b", ".hidden", "-rf", "a b", "a\n", "a\nb", "x" * 49, "é" * 40,
    "a\x00", "a=b", "a,b", "a'b", "${x}", "\u202ex",
)  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_name_is_allowed_and_can_be_a_file(name: str, tmp_path: Path) -> None:
    check_name("task.name", name)
    (tmp_path / name).touch()
    assert [one.name for one in tmp_path.iterdir()] == [name]
    assert not name.startswith("-")


@pytest.mark.parametrize("name", BAD)
def test_other_text_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match=r"^task\.name=.*is not a name") as raised:
        check_name("task.name", name)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("group", ["task", "model", "method", "protocol"])
def test_every_group_checks_its_name(compose: Callable[..., RunConfig], group: str) -> None:
    with pytest.raises(UserError, match=rf"{group}\.name='\.\./escape' is not a name"):
        compose("task=cola", "method=ft", "lr=1e-3", f"{group}.name=../escape")


def test_the_longest_names_make_a_file_name_that_fits() -> None:
    longest = "-".join([*["x" * 48] * 3, "r999999", "lr1.23457e-300", "s9223372036854775807", "0123456789.json"])
    assert len(longest) + len(".generations.jsonl.") + 8 <= 255
    assert os.pathconf("/", "PC_NAME_MAX") >= 255
