"""The page, looked at in a real browser: it answers clicks and words, shows names as text, and needs no network."""

import copy
import json
import re
import shutil
import time

import pytest

from frostline.report.groups import group_runs
from frostline.report.page import page_data, write_page
from tests.report.test_compare import run

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "<img src=x onerror=window.broken=1></script><script>window.broken=1</script>"


def content(
    strategy, seed=0, accuracy=0.5, *, selector="Everything", k=None, tasks=3, stream="split_digits", flops=10.0
):
    made = run(strategy, seed, accuracy, selector)
    if k is not None:
        made["config"]["selector"]["k"] = k
    made["config"]["stream"]["tasks"] = tasks
    names = [f"task {t}" for t in range(tasks)]
    matrix = [[0.1] * tasks] + [
        [accuracy - 0.1 * (i - j) if j <= i else 0.1 for j in range(tasks)] for i in range(tasks)
    ]
    ledger = [
        {
            "task": t,
            "phase": p,
            "flops": flops,
            "seconds": flops / 10,
            "usd": None,
            "stored_bytes": 8,
            "peak_memory_bytes": 99,
        }
        for t in range(tasks)
        for p in ("train", "evaluate")
    ]
    full = {"flops_ratio": flops / 20, "seconds_ratio": flops / 20}
    return made | {
        "accuracy": matrix, "loss": matrix, "ledger": ledger, "full_finetuning": full, "within": [],
        "stream": {"name": stream, "scenario": "class", "tasks": names},
        "metrics": {"average_accuracy": accuracy, "forgetting": 0.1, "intransigence": None},
        "retrained": [{"block": 1.0, "head": 1.0}] * tasks,
    }  # fmt: skip


def several():
    """Three methods of six seeds, one with two settings; partial is the cheapest and within .01 of the best."""
    runs = [content("replay", seed, 0.80 + seed / 1000, flops=30.0) for seed in range(6)]
    runs += [content("partial", seed, 0.795 + seed / 1000, selector="LastK", k=1, flops=8.0) for seed in range(6)]
    runs += [content("partial", seed, 0.60, selector="LastK", k=2, flops=12.0) for seed in range(6)]
    return [*runs, *(content("finetune", seed, 0.50, flops=20.0) for seed in range(6))]


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("no Chromium here")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Return a function that writes the page of some runs and opens it, without a network; it must say nothing wrong."""
    wrong, pages = [], []

    def open_page(runs, left_out=(), **options):
        write_page(group_runs(runs), left_out, tmp_path / "page.html")
        page = browser.new_page(**options)
        pages.append(page)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on(
            "request", lambda request: request.url.startswith(("file:", "blob:", "data:")) or wrong.append(request.url)
        )
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector("body[data-ready]", timeout=30_000)
        return page

    yield open_page
    assert wrong == []
    for page in pages:
        page.close()


def rows(page):
    return [row.inner_text() for row in page.query_selector_all("#table tbody tr")]


def first_point(page):
    """Return where the first point stands, in the middle of the window: Plotly lies above its points."""
    point = page.query_selector("#frontier .scatterlayer .point")
    point.evaluate("p => p.scrollIntoView({block: 'center'})")
    box = point.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_what_is_asked_most_stands_at_the_top(opened):
    page = opened(several())
    said = page.inner_text("#answer")
    assert said.startswith("Best average accuracy at the end: replay (0.802 ± 0.0020 for 90 FLOP")
    assert "Within 0.01 of it, the least operations of learning: partial LastK k=1 (0.797 ± 0.0020 for 24 FLOP" in said
    page.fill("#margin", "0.001")
    assert "Nothing within 0.001 of it takes less" in page.inner_text("#answer")


def test_words_boxes_heads_and_clicks(opened):
    page = opened(several())
    assert len(rows(page)) == 4
    assert sum("nothing beats it" in r for r in map(str, page.eval_on_selector_all(
        "tr.front td:nth-child(3)", "cells => cells.map(c => getComputedStyle(c, '::after').content)"
    ))) == 2  # fmt: skip
    page.fill("#search", "lastk k=2")
    assert len(rows(page)) == 1
    page.fill("#search", "")
    page.click("#table thead th:nth-child(6) button")
    assert rows(page)[0].split("\t")[2].startswith("partial LastK k=1")
    assert page.get_attribute("#table thead th:nth-child(6)", "aria-sort") == "ascending"
    page.click("#table tbody tr:nth-child(1) input")
    drawn = "Math.max(...document.getElementById('frontier').data.map(t => t.customdata ? t.customdata.length : 0))"
    assert page.evaluate(drawn) == 1  # of partial's two one is left
    page.click("#table tbody tr:nth-child(1) input")
    assert page.evaluate(drawn) == 2
    chosen = len(page.query_selector_all(".card"))
    page.focus("#table tbody tr:nth-child(2) button")
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelectorAll('.card').length == {chosen + 1}")
    page.mouse.click(*first_point(page))
    page.wait_for_function(f"document.querySelectorAll('.card').length != {chosen + 1}")


def test_every_axis_and_both_colours_and_a_phone(opened):
    runs = several()
    for made in runs:
        made["stream"]["name"] = "a stream of a name that is longer than a phone is wide, " * 3
    page = opened(runs, viewport={"width": 390, "height": 800}, color_scheme="dark")
    for control in ("#y", "#x", "#interval", "#unit"):
        for value in page.eval_on_selector_all(f"{control} option", "all => all.map(o => o.value)"):
            page.select_option(control, value)
    page.check("#log")
    page.select_option("#x", "flops")
    page.select_option("#y", "accuracy")
    page.check("#anytime")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"


def test_names_are_cut_in_the_middle(opened):
    """What tells settings apart stands at their end."""
    long = "a_strategy_with_quite_a_long_name_indeed"
    runs = [content(long, 0, 0.5 + k / 10, selector="LastK", k=k, flops=8.0) for k in (1, 2)]
    shown = [label.text_content() for label in opened(runs).query_selector_all("#bill .ytick text")]
    assert len(set(shown)) == 2
    assert all("…" in name and name.endswith(("k=1", "k=2")) for name in shown)


def test_one_run(opened):
    page = opened([content("finetune")])
    assert "1 configuration, 1 run" in page.inner_text("h1")
    assert len(rows(page)) == 1


def test_streams_are_looked_at_one_at_a_time(opened):
    page = opened([*several(), *(content("ewc", seed, 0.9, tasks=5, stream="split_mnist") for seed in range(2))])
    assert len(page.query_selector_all("#stream option")) == 2
    assert len(rows(page)) == 4
    page.select_option("#stream", "1")
    assert [r.split("\t")[2].split("\n")[0] for r in rows(page)] == ["ewc"]


def test_names_are_text(opened):
    runs = several()
    for made in runs[:6]:
        made["config"]["strategy"] = {EVIL: made["config"]["strategy"]["replay"]}
        made["stream"]["tasks"] = [EVIL, "b", "c"]
        made["folder"] = f"/tmp/{EVIL}"
    page = opened(runs, left_out=[(EVIL, EVIL)])
    page.mouse.move(*first_point(page))
    page.wait_for_selector("#frontier .hoverlayer text")
    assert page.evaluate("window.broken") is None
    assert page.query_selector("img") is None
    assert any(EVIL in row for row in rows(page))
    assert EVIL in page.inner_text("#out")


def test_the_command_is_what_hydra_noted(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- strategy=[replay,ewc]\n- seed=3\n")
    (record,) = page_data(group_runs([content("replay") | {"folder": str(tmp_path)}]))["groups"]
    assert record["command"] == "frostline run 'strategy=[replay,ewc]' seed=3"
    (record,) = page_data(group_runs([content("replay") | {"folder": str(tmp_path / "gone")}]))["groups"]
    assert record["command"] == ""


def test_what_was_stored_is_the_most_and_prices_add_up():
    (record,) = page_data(group_runs([content("replay", flops=30.0)]))["groups"]
    assert record["axes"]["stored_bytes"][0] == 8
    assert record["axes"]["flops"][0] == 90
    assert record["over_time"]["flops"] == [30, 60, 90]
    assert record["bill"]["flops"] == {"train": [30] * 3, "evaluate": [30] * 3}


@pytest.mark.slow
@pytest.mark.parametrize("count", [200, 1000])
def test_many_runs_open_soon(opened, tmp_path, count):
    runs = []
    for number in range(count):
        made = copy.deepcopy(content(f"method{number % 9}", 0, 0.3 + number % 50 / 100, tasks=20, flops=1.0 + number))
        made["config"]["optimizer"]["lr"] = number
        runs.append(made)
    begun = time.monotonic()
    page = opened(runs)
    assert time.monotonic() - begun < 20
    size = (tmp_path / "page.html").stat().st_size
    assert size < 6e6 or count > 200
    timing = json.loads(page.evaluate("JSON.stringify(performance.now())"))
    assert re.match(rf"frostline {count} configurations, {count} runs", page.inner_text("h1")), timing
