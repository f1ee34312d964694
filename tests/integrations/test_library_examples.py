"""The examples of the library in docs/examples run as they are."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "end"),
    [("own_loop", "largest difference of logits after merging"), ("trainer_resume", "tensors are equal, to the bit")],
)
def test_the_example_runs_to_its_end(
    name: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name.startswith("trainer"):
        pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert end in capsys.readouterr().out.splitlines()[-1]
