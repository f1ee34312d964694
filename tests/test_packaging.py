import ast
import importlib
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import rosa_bench
from rosa_bench.config.files.folder import conf_folder
from rosa_bench.report.published import published_folder

ROOT = Path(rosa_bench.__file__).parent.parent
GROUPS = (
    "task",
    "model",
    "method",
    "optimizer",
    "protocol",
    "recipe",
    "experiment",
    "launch",
    "logger",
    "hydra/job_logging",
    "hydra/hydra_logging",
)

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_configuration_is_found() -> None:
    assert (conf_folder() / "config.yaml").is_file()
    for group in GROUPS:
        assert list((conf_folder() / group).glob("*.yaml")), group


def test_a_wheel_includes_folders_where_the_package_looks_for_them() -> None:
    carried = project()["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for source in carried:
        assert (ROOT / source).is_dir()
        assert any((ROOT / source).rglob("*.yaml"))
    assert {ROOT / source: target for source, target in carried.items()} == {
        conf_folder(): "rosa_bench/conf",
        published_folder(): "rosa_bench/published",
    }


def test_an_installed_package_uses_its_own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "rosa_bench"
    for folder in ("conf", "published"):
        (package / folder).mkdir(parents=True)
    monkeypatch.setattr(rosa_bench, "__path__", [str(package)])
    assert conf_folder() == package / "conf"
    assert published_folder() == package / "published"


def test_links_and_images_of_the_readme_are_absolute_on_a_package_index() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    relative = re.findall(r"(!?)\[[^\]]*\]\((?!https?:)([^)]+)\)", text)
    for change in project()["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    home = project()["project"]["urls"]["Homepage"]
    raw = home.replace("github.com", "raw.githubusercontent.com")
    for image, path in relative:
        assert (ROOT / path).exists()
        assert f"]({raw}/main/{path})" in text if image else f"]({home}/blob/main/{path})" in text
    assert all(link.startswith("https://") for link in re.findall(r"\]\(([^)]+)\)", text))


def test_type_checkers_are_told_that_the_package_has_types() -> None:
    assert (ROOT / "rosa_bench" / "py.typed").is_file()


def test_every_path_of_the_source_archive_exists() -> None:
    for name in project()["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert (ROOT / name.lstrip("/")).exists(), name


def test_the_command_is_installed_and_resolves() -> None:
    [command] = importlib.metadata.entry_points(group="console_scripts", name="rosa-bench")
    assert command.value == project()["project"]["scripts"]["rosa-bench"]
    module, _, function = command.value.partition(":")
    assert command.load() is getattr(importlib.import_module(module), function)


def test_the_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("rosa-bench") == rosa_bench.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", rosa_bench.__version__)


# Import names that differ from the declared package, or that come with another one.
SUPPLIED = {
    "hydra": "hydra-core", "sklearn": "scikit-learn", "numpy": "scipy", "huggingface_hub": "transformers",
    "tokenizers": "transformers", "markdown_it": "markdown-it-py", "markupsafe": "jinja2", "yaml": "omegaconf",
}  # fmt: skip

# Files that may import packages of an extra; they check first that those are installed.
OPTIONAL = {
    "rosa_bench/report": "report", "rosa_bench/trackers": "tracking", "rosa_bench/models/weights/gguf.py": "gguf",
    "rosa_bench/methods/peft": "peft", "rosa_bench/integrations/peft": "peft",
    "rosa_bench/cli/launchers/on_ray.py": "ray",
    "rosa_bench/layers/storage/quantised.py": "quantised",
}  # fmt: skip


def test_every_import_is_a_declared_dependency() -> None:
    extras = {"": project()["project"]["dependencies"], **project()["project"]["optional-dependencies"]}
    declared = {extra: {re.split(r"[<>=\[]", entry)[0] for entry in entries} for extra, entries in extras.items()}
    for path in (conf_folder() / "logger").glob("*.yaml"):
        declared["tracking"] |= set(OmegaConf.load(path).packages)
    for path in (ROOT / "rosa_bench").rglob("*.py"):
        inside = path.relative_to(ROOT)
        extra = {OPTIONAL[str(place)] for place in (inside, *inside.parents) if str(place) in OPTIONAL}
        allowed = declared[""].union(*(declared[name] for name in extra))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in (name.partition(".")[0] for name in names):
                if name not in sys.stdlib_module_names and name != "rosa_bench":
                    assert SUPPLIED.get(name, name) in allowed, (path, name)
