"""The page of ``rosa-bench report``, opened in a real browser that is offline."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.records.measured import EpochScores
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import save_record
from rosa_bench.report.make_page import make_report

api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")

pytestmark = pytest.mark.slow

MakeRecord = Callable[..., RunRecord]
Opened = Callable[[list[RunRecord]], Any]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH, HEIGHT = 1280, 900
SCORES = [0.625, 0.04, 0.51, -0.1, 0.57]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, or playwright's own."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with api.sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip(f"no browser: neither {', '.join(BROWSERS)} nor playwright's (playwright install chromium)")
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    """``opened(records)`` opens their page. Teardown checks that it made no request and reported no error."""
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, offline=True)
    view = context.new_page()
    asked: list[str] = []
    messages: list[str] = []
    view.on("request", lambda request: asked.append(request.url))
    view.on("console", lambda message: messages.append(message.text))
    view.on("pageerror", lambda error: messages.append(str(error)))
    view.on("dialog", lambda dialog: messages.append(dialog.message))

    def open_page(records: list[RunRecord]) -> Any:
        for record in records:
            save_record(record, tmp_path)
        make_report(tmp_path)
        view.goto((tmp_path / "report.html").as_uri())
        view.get_by_text(f"of {len(records)} runs").wait_for()
        return view

    yield open_page
    context.close()
    assert messages == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.fixture
def records(make_record: MakeRecord) -> list[RunRecord]:
    """Five runs of ROSA, more runs of other methods than fit a page, and one failed run."""
    runs = [make_record(f"seed={seed}", dev=dev, id=f"rosa-{seed}") for seed, dev in enumerate(SCORES)]
    for run in runs:
        run.scores.epochs = [
            EpochScores(train_loss=1 / number, scores={"matthews_correlation": 0.1, "loss": 0.5}, time_s=1.0)
            for number in (1, 2, 3)
        ]
    methods = ("ft", "lora", "ia3", "bitfit")
    runs += [
        make_record(f"method={method}", f"seed={seed}", dev=0.3, id=f"{method}-{seed}")
        for method in methods
        for seed in range(8)
    ]
    failed = make_record("method=ft", "seed=9", id="ft-9", status="failed", error="loss is nan at step 3")
    failed.scores.selected = failed.scores.last = None
    return [*runs, failed]


def assert_shows(view: Any, title: str, texts: list[str]) -> None:
    """Wait until the visible rows have these texts in a column, because the page sorts and filters asynchronously."""
    titles = [text.strip() for text in view.locator("#runs thead th").all_inner_texts()]
    cells = view.locator(f"#runs tbody tr td:nth-child({titles.index(title) + 1})")
    api.expect(cells).to_have_text(texts)


def head(view: Any, title: str) -> Any:
    return view.locator("#runs thead th").filter(has_text=title).first


def tick(view: Any, title: str, choice: str) -> None:
    """Tick one value in a column's filter."""
    head(view, title).locator(".dtcc-button_dropdown").click()
    view.locator(".dtcc-dropdown").get_by_text(choice, exact=True).click()
    view.keyboard.press("Escape")


def fits(view: Any) -> bool:
    return view.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_filter_keeps_the_runs_of_one_method(opened: Opened, records: list[RunRecord]) -> None:
    view = opened(records)
    api.expect(view.locator("#runs tbody tr")).to_have_count(25)
    tick(view, "Method", "ROSA")
    assert_shows(view, "Method", ["ROSA"] * len(SCORES))
    assert_shows(view, "Run", [f"rosa-{seed}" for seed in range(len(SCORES))])
    view.get_by_role("button", name="Clear filters").click()
    view.get_by_text("1 to 25 of 38 runs").wait_for()
    tick(view, "Status", "failed")
    assert_shows(view, "Run", ["ft-9"])


def test_a_click_sorts_scores_numerically(opened: Opened, records: list[RunRecord]) -> None:
    view = opened(records)
    tick(view, "Method", "ROSA")
    assert_shows(view, "Score", ["62.5", "4.0", "51.0", "-10.0", "57.0"])
    head(view, "Score").click()
    assert_shows(view, "Score", ["-10.0", "4.0", "51.0", "57.0", "62.5"])
    assert_shows(view, "Seed", ["3", "1", "2", "4", "0"])
    head(view, "Score").click()
    assert_shows(view, "Score", ["62.5", "57.0", "51.0", "4.0", "-10.0"])


def test_any_column_can_be_filtered_by_typing(opened: Opened, records: list[RunRecord]) -> None:
    view = opened(records)
    view.get_by_placeholder("Search all columns").fill("ia3-4")
    view.get_by_text("1 to 1 of 1 runs (of 38)").wait_for()
    assert_shows(view, "Run", ["ia3-4"])
    view.get_by_placeholder("Search all columns").fill("")
    head(view, "Score").locator(".dtcc-button_dropdown").click()
    menu = view.locator(".dtcc-dropdown")
    menu.get_by_role("combobox").select_option("greater")
    menu.get_by_role("textbox").fill("50.5")
    view.get_by_text("1 to 3 of 3 runs").wait_for()
    assert_shows(view, "Score", ["62.5", "51.0", "57.0"])


def test_a_chosen_run_shows_its_curves_settings_and_provenance(
    opened: Opened, records: list[RunRecord], tmp_path: Path
) -> None:
    view = opened(records)
    panel = view.get_by_role("complementary")
    assert fits(view)
    assert panel.count() == 0
    tick(view, "Method", "ROSA")
    view.locator("#all-runs").scroll_into_view_if_needed()
    before = view.screenshot()

    view.get_by_role("cell", name="51.0", exact=True).first.click()
    panel.get_by_role("heading", name="rosa-2").wait_for()
    assert panel.locator("svg").count() == 3
    assert panel.locator("svg polyline").first.bounding_box()["width"] > 200
    for words in ("fingerprint", "nyu-mll/glue", "method.resample_every", "NVIDIA H200", "commit"):
        assert words in panel.inner_text()
    assert view.locator("#runs tr.chosen").all_inner_texts()[0].strip().endswith("rosa-2")
    assert fits(view)

    after = view.screenshot(path=tmp_path / "report.png")
    size = tuple(int.from_bytes(after[start : start + 4]) for start in (16, 20))  # where a PNG stores its size
    assert size == (WIDTH, HEIGHT)
    assert after != before

    view.get_by_role("cell", name="62.5", exact=True).first.click()  # another run replaces it
    panel.get_by_role("heading", name="rosa-0").wait_for()
    assert "rosa-2" not in panel.inner_text()
    panel.get_by_label("Close").click()
    panel.wait_for(state="hidden")


def test_a_run_that_failed_says_why_and_can_be_linked_to(opened: Opened, records: list[RunRecord]) -> None:
    view = opened(records)
    view.goto(f"{view.url}#run:ft-9")
    view.reload()
    panel = view.get_by_role("complementary")
    panel.get_by_role("heading", name="ft-9").wait_for()
    assert "loss is nan at step 3" in panel.inner_text()


def test_text_from_a_record_is_not_markup(opened: Opened, make_record: MakeRecord) -> None:
    words = "</script><script>alert(1)</script><img src=http://example.org/x onerror=alert(2)>% &amp;"
    view = opened([make_record(id="strange", status="failed", error=words, device={
        "type": "cpu", "name": words, "precision": words
    })])  # fmt: skip
    assert_shows(view, "Device", [words])
    head(view, "Device").locator(".dtcc-button_dropdown").click()
    assert view.locator(".dtcc-dropdown").get_by_text(words, exact=True).count() == 1
    view.keyboard.press("Escape")
    view.locator("#runs tbody tr").click()
    panel = view.get_by_role("complementary")
    panel.get_by_role("heading", name="strange").wait_for()
    assert panel.locator(".error").inner_text() == words
    assert view.locator("img").count() == 0
