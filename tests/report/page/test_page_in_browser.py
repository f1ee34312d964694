"""The page of ``rosa-bench report``, opened in a real browser that is offline, on a wide and a narrow screen."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.records.parts.measured import EpochScores
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import save_record
from rosa_bench.report.make_page import make_report

api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")

pytestmark = pytest.mark.slow

MakeRecord = Callable[..., RunRecord]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDE, NARROW = (1400, 900), (390, 844)
SCORES = [0.62487, 0.04, 0.51, -0.1, 0.57]
HOSTILE = "</script><script>alert(1)</script><img src=http://example.org/x onerror=alert(2)>% &amp;"
# The ratio of luminances of a text and its ground, by WCAG 2.
CONTRAST = """node => {
  const light = colour => {
    const parts = colour.match(/[\\d.]+/g).map(Number);
    const linear = part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = parts.map(part => linear(part / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let ground = node;
  while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
  const pair = [light(getComputedStyle(node).color), light(getComputedStyle(ground).backgroundColor)];
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page is made, once for all tests."""
    return tmp_path_factory.mktemp("report")


@pytest.fixture
def report(make_record: MakeRecord, folder: Path) -> Path:
    """The page of five runs of ROSA, more runs of other methods than fit a page, a failed run, and a choice."""
    if not (folder / "report.html").exists():
        for record in records(make_record):
            save_record(record, folder)
        (folder / "choose").mkdir()
        (folder / "choose/reviews.md").write_text(f"# Use lora\n\n- against ft: +1.0\n- {HOSTILE}\n", encoding="utf-8")
        make_report(folder)
    return folder / "report.html"


def records(make_record: MakeRecord) -> list[RunRecord]:
    runs = [
        make_record(f"seed={seed}", dev=dev, id=f"rosa-{seed}", memory_bytes={"train": (300 + seed) << 20})
        for seed, dev in enumerate(SCORES)
    ]
    for run in runs:
        run.scores.epochs = [
            EpochScores(train_loss=1 / number, scores={"matthews_correlation": 0.1, "loss": 0.5}, time_s=1.0)
            for number in (1, 2, 3)
        ]
    runs += [
        make_record(f"method={method}", f"seed={seed}", dev=0.3, id=f"{method}-{seed}")
        for method in ("ft", "lora", "ia3", "bitfit")
        for seed in range(8)
    ]
    failed = make_record("method=ft", "seed=9", id="ft-9", status="failed", error=HOSTILE, device={
        "type": "cpu", "name": HOSTILE, "precision": "float32"
    })  # fmt: skip
    failed.scores.selected = failed.scores.last = None
    return [*runs, failed]


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Callable[..., Any]]:
    """``opened(size)`` opens the page. Teardown checks that it fits, made no request, and reported no error."""
    contexts: list[Any] = []
    asked: list[str] = []
    messages: list[str] = []

    def open_page(size: tuple[int, int], *, address: str = "", scheme: str = "light") -> Any:
        width, height = size
        contexts.append(
            browser.new_context(viewport={"width": width, "height": height}, offline=True, color_scheme=scheme)
        )
        view = contexts[-1].new_page()
        view.on("request", lambda request: asked.append(request.url))
        view.on("console", lambda message: messages.append(message.text))
        view.on("pageerror", lambda error: messages.append(str(error)))
        view.on("dialog", lambda dialog: messages.append(dialog.message))
        view.goto(report.as_uri() + address)
        view.get_by_text("of 38 runs").wait_for()
        api.expect(view.get_by_text("need JavaScript")).to_be_hidden()
        return view

    yield open_page
    for context in contexts:
        for view in context.pages:
            assert view.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
        context.close()
    assert messages == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def assert_shows(view: Any, title: str, texts: list[str]) -> None:
    """Wait until the visible rows have these texts in a column, because the page sorts and filters asynchronously."""
    titles = [text.strip() for text in view.locator("#runs thead th").all_inner_texts()]
    cells = view.locator(f"#runs tr[data-run] > td:nth-child({titles.index(title) + 1})")
    api.expect(cells).to_have_text(texts)


def head(view: Any, title: str) -> Any:
    return view.locator("#runs thead th").filter(has_text=title).first


def tick(view: Any, title: str, choice: str) -> None:
    """Tick one value in a column's filter."""
    head(view, title).locator(".dtcc-button_dropdown").click()
    view.locator(".dtcc-dropdown").get_by_text(choice, exact=True).click()
    view.keyboard.press("Escape")


def row(view: Any, run: str) -> Any:
    """Return the row of a run, after a search for it."""
    return view.locator("#runs tr[data-run]").filter(has=view.locator(f'a[href="#run:{run}"]'))


def test_a_filter_keeps_the_runs_of_one_method(opened: Callable[..., Any]) -> None:
    view = opened(WIDE)
    api.expect(view.locator("#runs tr[data-run]")).to_have_count(25)
    tick(view, "Method", "ROSA")
    assert_shows(view, "Method", ["ROSA"] * len(SCORES))
    assert_shows(view, "Run", [f"rosa-{seed}" for seed in range(len(SCORES))])
    view.get_by_role("button", name="Clear filters").click()
    view.get_by_text("1 to 25 of 38 runs").wait_for()
    tick(view, "Status", "failed")
    assert_shows(view, "Run", ["ft-9"])


def test_a_click_sorts_scores_numerically(opened: Callable[..., Any]) -> None:
    view = opened(WIDE)
    tick(view, "Method", "ROSA")
    assert_shows(view, "Score", ["62.5", "4.0", "51.0", "-10.0", "57.0"])
    head(view, "Score").click()
    assert_shows(view, "Score", ["-10.0", "4.0", "51.0", "57.0", "62.5"])
    assert_shows(view, "Seed", ["3", "1", "2", "4", "0"])
    head(view, "Score").click()
    assert_shows(view, "Score", ["62.5", "57.0", "51.0", "4.0", "-10.0"])
    view.get_by_role("button", name="Clear filters").click()
    view.get_by_role("searchbox", name="Search all columns").fill("FT")
    assert_shows(view, "Score", [*["30.0"] * 8, "–"])  # a run without a score is last both ways
    head(view, "Score").click()
    head(view, "Score").click()
    assert_shows(view, "Score", [*["30.0"] * 8, "–"])
    assert head(view, "Score").get_attribute("aria-sort") == "ascending"


def test_any_column_can_be_filtered_by_typing(opened: Callable[..., Any]) -> None:
    view = opened(WIDE)
    view.get_by_placeholder("Search all columns").fill("ia3-4")
    view.get_by_text("1 to 1 of 1 runs (of 38)").wait_for()
    assert_shows(view, "Run", ["ia3-4"])
    view.get_by_placeholder("Search all columns").fill("62.5")  # as shown, of 62.487
    assert_shows(view, "Run", ["rosa-0"])
    view.get_by_placeholder("Search all columns").fill("")
    view.get_by_role("button", name="Filter Score").click()
    menu = view.locator(".dtcc-dropdown")
    menu.get_by_role("combobox").focus()
    menu.get_by_role("combobox", name="Comparison").select_option("greater")
    menu.get_by_role("textbox", name="Filter Score").fill("50.5")
    view.get_by_text("1 to 3 of 3 runs").wait_for()
    assert_shows(view, "Score", ["62.5", "51.0", "57.0"])


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_a_chosen_run_shows_its_curves_settings_and_provenance(
    opened: Callable[..., Any], size: tuple[int, int], tmp_path: Path
) -> None:
    view = opened(size)
    panel = view.get_by_role("complementary")
    assert panel.count() == 0
    view.get_by_placeholder("Search all columns").fill("rosa-")
    chosen = row(view, "rosa-2")
    chosen.scroll_into_view_if_needed()
    before = chosen.bounding_box()["y"]
    chosen.locator("td").nth(1).click()
    panel.get_by_role("heading", name="ROSA r=8").wait_for()
    assert panel.locator(".curve svg").count() == 3
    assert panel.locator("svg polyline").first.bounding_box()["width"] > 150
    for words in ("rosa-2", "fingerprint", "nyu-mll/glue", "method.resample_every", "NVIDIA H200", "commit"):
        assert words in panel.inner_text()
    api.expect(view.locator("#runs tr.chosen")).to_have_count(1)

    # On a narrow screen the panel is under the row, which stays where the finger is; on a wide one beside the list.
    place, shown = chosen.bounding_box(), panel.bounding_box()
    assert abs(place["y"] - before) < 2
    if size == NARROW:
        assert abs(shown["y"] - (place["y"] + place["height"])) < 4
        assert shown["x"] >= 0 and shown["x"] + shown["width"] <= size[0]
    else:
        assert shown["x"] >= view.locator("#beside .runs").bounding_box()["width"]

    picture = view.screenshot(path=tmp_path / "report.png")
    assert tuple(int.from_bytes(picture[start : start + 4]) for start in (16, 20)) == size  # where a PNG stores it
    row(view, "rosa-0").locator("td").nth(1).click()  # another run replaces it
    panel.get_by_text("rosa-0", exact=True).first.wait_for()
    assert "rosa-2" not in panel.inner_text()
    panel.get_by_label("Close").click()
    panel.wait_for(state="hidden")


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_two_runs_are_overlaid_and_can_be_linked_to(opened: Callable[..., Any], size: tuple[int, int]) -> None:
    view = opened(size)
    view.get_by_placeholder("Search all columns").fill("rosa-")
    for run in ("rosa-1", "rosa-3"):
        row(view, run).get_by_role("checkbox").check()
    for _ in range(2):  # as chosen, and by the address
        panel = view.get_by_role("complementary")
        panel.get_by_role("heading", name="Two runs overlaid").wait_for()
        assert panel.locator(".legend a").all_inner_texts() == ["rosa-1", "rosa-3"]
        for curves in panel.locator(".curve").all():
            assert curves.locator("polyline").count() == 2
            assert re.search("A: ends at .*B: ends at ", curves.locator("svg").get_attribute("aria-label"))
        differing = panel.locator("table").first.locator("tbody tr").all_inner_texts()
        assert [line.split() for line in differing] == [["seed", "1", "3"], ["method.seed", "1", "3"]][: len(differing)]
        assert differing
        view.reload()
        view.get_by_text("of 38 runs").wait_for()
    view.get_by_placeholder("Search all columns").fill("rosa-")
    row(view, "rosa-0").get_by_role("checkbox").check()  # the first one makes room
    api.expect(view.locator(".legend a")).to_have_text(["rosa-3", "rosa-0"])


def test_a_run_can_be_chosen_and_closed_by_keyboard(opened: Callable[..., Any]) -> None:
    view = opened(NARROW)
    view.get_by_placeholder("Search all columns").fill("rosa-")
    panel = view.get_by_role("complementary")
    for leave in (lambda: panel.get_by_label("Close").press("Enter"), lambda: view.keyboard.press("Escape")):
        row(view, "rosa-1").get_by_role("link").focus()
        view.keyboard.press("Enter")
        api.expect(panel.get_by_role("heading", name="ROSA r=8")).to_be_focused()
        leave()
        panel.wait_for(state="hidden")
        assert view.evaluate("document.activeElement.getAttribute('href')") == "#run:rosa-1"


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_a_dot_of_the_plot_of_score_and_memory_opens_its_run(opened: Callable[..., Any], size: tuple[int, int]) -> None:
    view = opened(size)
    dots = view.locator("#memory .plot a")
    assert dots.count() == len(SCORES)
    dots.last.click()
    view.get_by_role("complementary").get_by_text(re.compile(r"^rosa-\d$")).first.wait_for()
    assert view.locator("#memory .on-front").count() == 1  # the first has the least memory and the best score
    assert view.get_by_role("complementary").bounding_box()["y"] < size[1] + view.evaluate("scrollY")


def test_figures_are_shown_and_the_contents_stay_reachable(opened: Callable[..., Any]) -> None:
    for size in (WIDE, NARROW):
        view = opened(size)
        for picture in view.locator("img[data-packed]").all():
            picture.scroll_into_view_if_needed()
            view.wait_for_function("node => node.complete && node.naturalWidth > 100", arg=picture.element_handle())
        view.evaluate("scrollTo(0, document.body.scrollHeight)")
        contents = view.get_by_role("navigation", name="Contents")
        api.expect(contents).to_be_in_viewport()
        contents.get_by_role("link", name="Answer", exact=True).click()
        api.expect(view.get_by_role("heading", name="rosa_bench report")).to_be_in_viewport()


def test_a_run_that_failed_says_why_in_text_that_is_not_markup(opened: Callable[..., Any]) -> None:
    view = opened(WIDE, address="#run:ft-9")
    panel = view.get_by_role("complementary")
    api.expect(panel.get_by_text("ft-9", exact=True).first).to_be_in_viewport()
    assert panel.locator(".error").inner_text() == HOSTILE
    tick(view, "Status", "failed")
    assert_shows(view, "Device", [HOSTILE])
    head(view, "Device").locator(".dtcc-button_dropdown").click()
    assert view.locator(".dtcc-dropdown").get_by_text(HOSTILE, exact=True).count() == 1
    assert view.locator("#choices").get_by_text("<script>alert(1)</script>").count() == 1
    assert view.locator("img:not([data-packed])").count() == 0
    view.get_by_placeholder("Search all columns").fill("<img src=http://example.org/x onerror=alert(2)>% &amp;")
    assert_shows(view, "Run", ["ft-9"])


def test_an_address_of_no_run_says_so(opened: Callable[..., Any]) -> None:
    view = opened(WIDE, address="#run:%&nobody")
    api.expect(view.locator("aside .error")).to_have_text(
        ["No run on this page has the id %.", "No run on this page has the id nobody."]
    )


def test_the_page_is_printed_dark_on_white_without_its_controls(opened: Callable[..., Any]) -> None:
    view = opened(WIDE, scheme="dark")
    assert light(view, "body", "backgroundColor") < 0.2 and light(view, "body", "color") > 0.8
    view.emulate_media(media="print", color_scheme="dark")
    assert light(view, "body", "color") < 0.2 and light(view, "body", "backgroundColor") > 0.8
    api.expect(view.get_by_role("heading", name="The best on each task")).to_be_visible()
    for hidden in ("nav.contents", "#runs", "#all-runs"):
        api.expect(view.locator(hidden)).to_be_hidden()


def light(view: Any, place: str, colour: str) -> float:
    """Return the lightness, from 0 to 1, of a text or its ground."""
    found = view.locator(place).evaluate(f"node => getComputedStyle(node).{colour}")
    return sum(map(int, re.findall(r"\d+", found)[:3])) / 765


def test_a_script_that_is_added_does_not_run(browser: Any, report: Path) -> None:
    """Whatever gets past the escapes is stopped by the policy."""
    text = report.read_text(encoding="utf-8")
    odd = report.with_name("odd.html")
    ways = "<script>document.title = 'ran'</script><img src=x onerror=\"document.title = 'ran'\">"
    ways += "<script src=\"data:text/javascript,document.title = 'ran'\"></script>"
    odd.write_text(text.replace("<main>", f"<main>{ways}", 1), encoding="utf-8")
    view = browser.new_page()
    view.goto(odd.as_uri())
    view.get_by_text("of 38 runs").wait_for()
    assert view.title() == "rosa_bench report"
    view.close()


def test_an_old_browser_and_one_without_scripts_show_the_answer_and_say_what_is_missing(
    browser: Any, report: Path
) -> None:
    old = browser.new_page()
    old.add_init_script("delete window.DecompressionStream")
    old.goto(report.as_uri())
    without = browser.new_page(java_script_enabled=False, color_scheme="dark")
    without.goto(report.as_uri())
    assert light(without, "body", "backgroundColor") < 0.2
    for view in (old, without):
        api.expect(view.get_by_text("need JavaScript")).to_be_in_viewport()
        api.expect(view.get_by_role("heading", name="The best on each task")).to_be_visible()
        view.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read(opened: Callable[..., Any], scheme: str) -> None:
    view = opened(WIDE, address="#run:ft-9", scheme=scheme)
    view.locator("aside .error").wait_for()
    for place in (
        "body", ".quiet", ".contents ul ul a", "#runs td", "#runs .changes", ".status", "aside .error",
        "aside dt", "aside .quiet", ".faint",
    ):  # fmt: skip
        assert view.locator(place).first.evaluate(CONTRAST) >= 4.5, place
