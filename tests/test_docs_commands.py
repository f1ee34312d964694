"""Every line of every bash block in README and docs/ is run, composed without being run, or listed with a reason."""

import io
import logging
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from rich import reconfigure

from rosa_bench.cli.commands.choose import CHOSEN
from rosa_bench.cli.commands.choose import Options as ChooseOptions
from rosa_bench.cli.main import main
from rosa_bench.cli.options import names_of, own_config_dir, separate, split
from rosa_bench.config.composing.compose import composing
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.files.preset import is_sweep
from rosa_bench.config.overrides.grammar import spelled
from rosa_bench.config.overrides.mistakes import check_overrides
from rosa_bench.records import store

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())

# Lines that no test runs as they are, by how they begin, and why.
NOT_RUN = {
    ". .venv/bin/activate": "activates what make has installed",
    "rosa-bench models pull": "downloads; tests/models/weights pulls a wheel of its own",
    "rosa-bench models add": "needs a folder with a model; tests/cli/test_own_models.py adds one",
    "rosa-bench --config-dir my_conf": "needs the folder that models add has made; tests/cli/test_own_models.py",
    "rosa-bench -m +launch=ray": "Ray is not among the tools for development",
    "torchrun": "starts two processes; tests/training/distributed/test_together.py does, on smaller tasks",
    "accelerate launch": "sets what torchrun sets; Accelerate comes with an extra",
    "rosa-bench export": "needs a run with an adapter; tests/runs/exporting/test_export.py exports one",
    "rosa-bench score": "needs written texts; tests/cli/test_score.py scores some",
}
TINY = ("limit_train=32", "limit_eval=8", "epochs=1", "device=cpu")
RUNS = re.compile(r"task=(grammar|restaurants)\b.*\bmodel=tiny_")  # for real, if small
READING = ("tables", "figures", "report", "ls", "show", "compare", "next", "methods", "models")


def lines(page: Path) -> Iterator[str]:
    """Yield the commands of a page's bash blocks, with their shell variables replaced, without comments."""
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL):
        values: dict[str, str] = {}
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            text = re.sub(r"(^|\s)#\s.*", "", line).strip()
            assigns = re.match("[A-Z]+=", text)
            for name, value in values.items():  # as in a shell, a backslash in a variable stays one
                words = value if assigns else " ".join(map(shlex.quote, value.split()))
                text = re.sub(rf"\${name}\b", lambda _, words=words: words, text)
            if named := re.fullmatch(r"""([A-Z]+)=("[^"]*"|'[^']*')""", text):
                values[named[1]] = named[2][1:-1]
            elif text:
                yield text


def ours(page: Path, *commands: str) -> list[list[str]]:
    """Return the words of a page's rosa-bench commands that begin with one of ``commands``, or of its runs."""
    found = [shlex.split(line.partition(" | ")[0])[1:] for line in lines(page) if is_ours(line)]
    if commands:
        return [words for words in found if words[0] in commands]
    return [words for words in found if words[0] in ("plan", "run") or "=" in words[0] or words[0] == "-m"]


def is_ours(line: str) -> bool:
    return line.startswith("rosa-bench ") and not line.startswith(tuple(NOT_RUN))


@cache
def extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])


@each_page
def test_every_line_is_covered(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for line in lines(page):
        words = shlex.split(line)
        match words[:3]:
            case _ if line.startswith(tuple(NOT_RUN)):
                pass
            case ["rosa-bench", command, *_]:
                known = "=" in command or command in (*READING, "-m", "plan", "run", "choose", "--help", "--version")
                assert known, line
            case ["make", target, *_]:
                assert target in targets, line
            case ["pip", "install", *_]:
                assert set(re.findall(r"\[(\w+)\]", line)) <= extras(), line
            case ["python", "-m", module]:
                assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), line  # tests/test_scripts.py runs it
            case _:
                raise AssertionError(f"no test runs this line: {line}")


def test_every_reason_is_needed() -> None:
    everything = [line for page in PAGES for line in lines(page)]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in everything)] == []


@each_page
def test_runs_and_sweeps_compose(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}', encoding="utf-8")
    with composing() as composer:
        methods = [
            [f"{'' if '=' in word else 'method='}{word}" for word in words[1:]] for words in ours(page, "methods")
        ]
        for words in filter(None, methods):
            composer.compose(tuple(spelled(words)))  # a table of methods needs no task that fits the model
        for words in [*ours(page), *map(chosen, ours(page, "choose"))]:
            flags, overrides = separate([word for word in own_config_dir(words)[1] if word not in ("plan", "run")])
            sweep = words[0] == "plan" or "-m" in flags or is_sweep(overrides)
            overrides = spelled(overrides, sweep=sweep)
            check_overrides(overrides)
            jobs = composer.expand(overrides)
            assert sweep or len(jobs) == 1, words
            for job in {jobs[0], jobs[-1]}:
                parse(composer.compose(job))


def chosen(words: list[str]) -> list[str]:
    """Return the settings that ``rosa-bench choose`` gives to its runs."""
    _, settings = split(words[1:], lambda key: key in {*names_of(ChooseOptions), *CHOSEN.values()})
    return settings if any(word.startswith("task=") for word in settings) else ["task=classify", *settings]


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Run a command in a folder with some records. Returns its exit status; what it prints is dropped."""
    shutil.copytree(ROOT / "results" / "quickstart" / "runs", tmp_path / "results" / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    root, own = logging.getLogger(), logging.getLogger("rosa_bench")
    before = (root.handlers[:], root.level, own.level)

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["rosa-bench"])
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
            reconfigure()
            try:
                main(arguments)
            except SystemExit as end:
                print(end.code, said.getvalue())
                return int(end.code or 0)
            finally:
                GlobalHydra.instance().clear()
        return 0

    yield run
    root.handlers[:] = before[0]  # Hydra replaces them
    root.setLevel(before[1])
    own.setLevel(before[2])


@pytest.fixture(scope="module")
def all_records() -> store.Records:
    return store.load_records(ROOT / "results")


def reading_costs(page: Path) -> pytest.MarkDecorator:
    return pytest.mark.long if page.name == "evidence.md" else pytest.mark.slow  # it has 37 comparisons


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=reading_costs(page), id=page.relative_to(ROOT).as_posix()) for page in PAGES]
)
def test_reading_commands_run(
    page: Path, status: Callable[..., int], all_records: store.Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in ours(page, "--help", "--version", "tables", "figures", "report", "show", "models"):
        assert status(*words) == 0, words
    monkeypatch.setattr(store, "load_records", lambda *_args, **_known: all_records)
    for words in ours(page, "compare", "ls"):
        if "task=grammar" not in words:  # which only a reader's own runs have
            assert status(*words) == 0, words


@pytest.mark.slow
@each_page
def test_next_runs_on_some_records(
    page: Path, status: Callable[..., int], all_records: store.Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [run for run in all_records if "/".join(run.id.split("-")[:3]).startswith(("cola/mpnet_base/rosa", "rte"))]
    monkeypatch.setattr(store, "load_records", lambda *_args, **_known: store.Records(some[::30]))
    for words in ours(page, "next"):
        assert status(*words) == 0, words


@pytest.mark.slow
@each_page
def test_small_runs_run(page: Path, status: Callable[..., int]) -> None:
    for words in ours(page):
        if RUNS.search(" ".join(words)) and words[0] != "plan":
            assert status(*words, *TINY) == 0, words


def python_blocks() -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    for page in PAGES:
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        found += [(page, block) for block in blocks]
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT reads it
@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")
@pytest.mark.parametrize(("page", "block"), python_blocks(), ids=lambda value: getattr(value, "stem", ""))
def test_python_runs(page: Path, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    small = block.replace('"epochs=1"]', ", ".join(f'"{setting}"' for setting in TINY) + "]")
    exec(compile(small, str(page), "exec"), names)
