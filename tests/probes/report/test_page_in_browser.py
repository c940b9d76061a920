"""A page as a reader has it: opened in a browser, by hand and by keys alone."""

import shutil
from itertools import product
from time import perf_counter

import pytest
from pages import EVIL, mixed, report, story

from alignment.findings import Example, finding
from probes.report import Report
from probes.report.html import render

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, driven by playwright, which brings a browser of its own only where it is asked to."""
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("no chromium on this machine: apt install chromium")
    reason = "playwright is not installed: pip install playwright"
    started = pytest.importorskip("playwright.sync_api", reason=reason).sync_playwright().start()
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    running = started.chromium.launch(executable_path=chromium, args=flags)
    yield running
    running.close()
    started.stop()


@pytest.fixture
def opened(browser, tmp_path):
    """Open a report from disk; what the console said, and what was asked of the network, must be nothing."""
    said, asked, pages = [], [], []

    def call(one, width=1280, scheme="light"):
        path = tmp_path / "page.html"
        path.write_text(render(one), encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce")
        pages.append(page)
        page.set_default_timeout(60_000)  # a loaded machine takes its time
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield call
    for page in pages:
        page.close()
    assert said == []
    assert all(url.startswith(("file:", "data:")) for url in asked)


def titles(page):
    return page.locator(".part h3").all_text_contents()


# ---------------------------------------------------------------- what is shown


def test_it_opens_on_what_is_wrong(opened):
    page = opened(mixed())
    assert page.locator("h1").inner_text() == "10 text rows learn to repeat what they have just read"
    assert titles(page) == ["text · sample 0"], "the sample and the stream of the error alone"
    assert page.locator("#count").inner_text() == ("10 of 104 rows match; streams and samples without any are left out")
    assert "row 50 · has read 150" in page.locator(".part .detail").inner_text(), "its first row is told"
    assert "50" in page.locator(".part .number-line").all_text_contents(), "and lies in the window"


def test_a_right_report_opens_on_everything(opened):
    one = mixed()
    one.findings = []
    page = opened(one)
    assert titles(page) == ["text · sample 0", "codebooks by frames · sample 0", "text · sample 1"]
    assert page.locator("#count").inner_text() == "54 of 104 rows match"


def test_a_finding_without_rows_hides_none(opened):
    one = mixed()
    one.findings = [finding("LA603", "all", "the ranks differ")]
    page = opened(one)
    assert page.locator("#finding").input_value() == ""
    assert len(titles(page)) == 3


def test_an_incomplete_page_says_what_that_means(opened):
    one = report([story(row, "unreadable") for row in range(8)])
    one.checks = []
    one.streams["text"]["expected"] = 8
    one.findings = [finding("LA802", "text", "a soft teacher", count=8, examples=(Example("text", 0, 3, -1, 104, -1),))]
    page = opened(one)
    header = page.locator("body > header")
    assert "8 of 8 text targets could not be read" in header.inner_text()
    assert "INCOMPLETE" in header.inner_text()
    assert "nothing wrong was seen, and something was not looked at" in header.inner_text()
    assert "is trained on no single token" in page.locator(".part .detail").inner_text()
    tone = "getComputedStyle(document.querySelector('body > header')).borderLeftWidth"
    assert page.evaluate(tone) == "5px"


def test_a_short_stream_is_drawn_too(opened):
    rows = [story(0, "right"), *(story(0, "right", stream=f"audio[{k}]") for k in range(2))]
    one = report(rows)
    one.findings = []
    page = opened(one)
    assert page.locator(".cell").count() == 2
    page.locator(".cell").last.click()
    detail = page.locator(".part .detail").last.text_content()
    assert "codebook 1, sample 0, row 0" in detail
    assert "weight 0.1, 1.0 times the mean of its stream" in detail


def test_a_data_set_has_its_page_too(opened):
    counts = {"trained": 3, "tokens": 9}
    data = {"samples": 2, "roles": {"answer": counts}, "shares": {}, "lengths": {}, "kinds": {"no-end": 1}}
    page = opened(
        Report(data=data | {"worst": [{"kind": "no-end", "where": "line 1", "text": [["so", "odd trained"]]}]})
    )
    assert page.locator("h1").inner_text() == "Nothing is wrong with 2 samples"
    assert page.locator("tbody tr").count() == 2
    assert page.locator(".w-odd").inner_text() == "so"


def test_no_script_comes_in_with_the_data(opened):
    one = mixed()
    one.token_name = lambda token: f"{EVIL}{token}"
    one.environment = {"model": EVIL}
    one.notes = [EVIL]
    page = opened(one)
    assert page.locator("#count").inner_text().startswith("10 of 104 rows match")
    assert page.locator("img").count() == 0


# ---------------------------------------------------------------- by hand


def test_the_filters_work(opened):
    page = opened(mixed())
    count = page.locator("#count")
    page.get_by_role("button", name="Reset filters").click()
    assert count.inner_text() == "54 of 104 rows match"
    page.select_option("#sample", "1")
    assert titles(page) == ["text · sample 1"]
    assert count.inner_text() == "20 of 20 rows match"
    page.get_by_role("button", name="Reset filters").click()
    page.select_option("#stream", "audio[1]")
    assert titles(page) == ["codebook 1 · sample 0"]
    page.select_option("#stream", "text")
    page.select_option("#finding", "0")
    assert count.inner_text().startswith("10 of 80 rows match")
    page.locator("#kind-copy").focus()
    page.keyboard.press("Space")
    assert count.inner_text().startswith("0 of 80 rows match")
    assert page.get_by_role("button", name="next n").is_disabled()


def test_a_finding_leads_to_its_row_and_to_all_of_them(opened):
    page = opened(mixed())
    page.select_option("#sample", "1")
    page.get_by_role("link", name="text, sample 0, row 55").click()
    detail = page.locator(".part .detail").first
    assert "row 55 · has read 155 · is trained to predict 155 (offset 0) · should predict 156" in detail.inner_text()
    page.get_by_role("link", name="All its rows").click()
    assert page.locator("#finding").input_value() == "0"
    assert "row 50" in detail.inner_text()
    page.get_by_text("these rows as a table").first.click()
    page.locator(".part table tbody tr").nth(3).wait_for()  # it is filled once the browser says that it was opened


# ---------------------------------------------------------------- by keys alone


def segments():
    """Two turns of one sample, and one of another; two rows of each copy."""
    rows = [story(n, "copy" if n % 10 in (4, 5) else "right", segment=n // 10) for n in range(30)]
    rows += [story(n, "copy" if n in (4, 5) else "right", sample=1) for n in range(10)]
    one = report(rows)
    one.findings = [finding("LA102", "text", "copies", count=8, examples=(Example("text", 0, 4, 1, 2, 4),))]
    return one


def test_keys_lead_from_row_to_row_and_from_segment_to_segment(opened):
    page = opened(segments())
    first, second = page.locator(".part .detail").first, page.locator(".part .detail").last
    assert "row 4" in first.inner_text()
    page.keyboard.press("n")
    assert "row 5" in first.inner_text()
    page.keyboard.press("p")
    page.keyboard.press("s")
    assert "row 14" in first.inner_text()
    page.keyboard.press("s")
    page.keyboard.press("s")
    assert "sample 1, row 4" in second.inner_text()
    page.keyboard.press("s")
    assert "sample 0, row 4" in first.inner_text(), "and round again"


def test_everything_is_reached_with_the_tab_key(opened):
    page = opened(mixed())
    told = "document.activeElement.id || document.activeElement.className || document.activeElement.textContent.trim()"
    reached = []
    for _ in range(24):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(told))
        if reached[-1] == "view":
            break
    wanted = [
        "text, sample 0, row 55",
        "All its rows, one by one",
        "stream",
        "sample",
        "finding",
        "next",
        "segment",
        "view",
    ]
    assert [one for one in reached if one in wanted] == wanted
    detail = page.locator(".part .detail").first
    page.keyboard.press("ArrowRight")
    assert "row 51" in detail.inner_text()
    page.keyboard.press("End")
    assert "row 59" in detail.inner_text()
    page.keyboard.press("Home")
    assert "row 0 · has read 100 · is not trained" in detail.inner_text()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid", "where one is can be seen"


# ---------------------------------------------------------------- in a notebook


def test_in_a_frame_that_may_touch_nothing_the_page_works(opened, monkeypatch):
    monkeypatch.setitem(globals(), "render", lambda one: f"<!doctype html><p>In [1]:</p>{one._repr_html_()}")
    page = opened(mixed(), 1000)
    frame = page.frame_locator("iframe")
    assert frame.locator("h1").inner_text() == "10 text rows learn to repeat what they have just read"
    frame.get_by_role("link", name="text, sample 0, row 55").click()
    assert "row 55" in frame.locator(".part .detail").inner_text(), "a link leads to its row, and not to the notebook"
    frame.get_by_role("link", name="All its rows").click()
    assert "row 50" in frame.locator(".part .detail").inner_text()
    assert page.url.endswith("page.html")


# ---------------------------------------------------------------- on any screen


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_nothing_runs_out_of_the_window(opened, scheme, width):
    page = opened(mixed(), width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(250, 249, 247)", "dark": "rgb(20, 23, 26)"}[scheme]
    hint = page.locator(".frame + .sideways")
    assert hint.is_visible() == (width == 375), "what is wider than a phone says that it scrolls"


@pytest.mark.deep
def test_sixteen_thousand_frames_of_eight_codebooks_open_in_two_seconds(opened):
    frames = 16_384
    rows = []
    for k, n in product(range(8), range(frames)):
        token, after = n * 7 % 1026, (n + 1) * 7 % 1026
        wrong = k == 3 and 9_000 <= n < 9_400
        target = {"target": token, "offset": 0} if wrong else {"target": after, "offset": 1}
        rows.append(story(n, "copy" if wrong else "right", stream=f"audio[{k}]", token=token, expected=after, **target))
    one = report(rows)
    one.streams = {f"audio[{k}]": {"rows": frames, "supervised": frames} for k in range(8)}
    one.findings = [
        finding("LA102", "audio[3]", "m", count=400, examples=(Example("audio[3]", 0, 9_000, 1, 2, 9_000),))
    ]
    taken = []
    for _ in range(3):  # the least: what else the machine does makes it longer, never shorter
        begin = perf_counter()
        page = opened(one)
        taken.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
        assert perf_counter() - begin > taken[-1]
        assert "400 of 131,072 rows match" in page.locator("#count").inner_text(), "all of them are in the file"
    assert min(taken) < 2
