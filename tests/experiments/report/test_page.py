"""The page of runs, as a browser shows it."""

import json
import os
import shutil
import time

import pytest

from experiments.figures import RUN_FIGURES
from experiments.report.__main__ import main, read_runs
from experiments.report.model_card import write_model_card
from experiments.report.one_run import command, decisions, overview
from experiments.report.page import _vega, write_report
from tests.experiments.report.made_up import made_up_results

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
needs_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")

#: Elements that stick out of the page, or out of their figure.
STICKING_OUT = """
const wide = [...document.querySelectorAll("h1,h2,h3,p,figure,figcaption,dl,pre,summary,.scroll,.gallery")]
  .filter((e) => e.getBoundingClientRect().right > window.innerWidth + 1);
const drawings = [...document.querySelectorAll(".chart > svg, .chart > div > svg")]
  .filter((e) => e.getBoundingClientRect().right > e.closest("figure").getBoundingClientRect().right + 1);
return [...wide, ...drawings].map((e) => e.outerHTML.slice(0, 120));
"""
#: Figures whose caption begins above the end of their drawing, and neighbours that overlap.
OVERLAPPING = """
const box = (e) => e.getBoundingClientRect();
const figures = [...document.querySelectorAll("figure")];
const covered = figures.filter((f) => [...f.querySelectorAll(".chart svg")]
  .some((svg) => box(svg).bottom > box(f.querySelector("figcaption")).top + 1));
const crossing = figures.filter((a) => figures.some((b) => a !== b && box(a).left < box(b).right - 1 &&
  box(b).left < box(a).right - 1 && box(a).top < box(b).bottom - 1 && box(b).top < box(a).bottom - 1));
return [...covered, ...crossing].map((f) => f.id);
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of one run, and that of a comparison of two methods over five seeds."""
    folder = tmp_path_factory.mktemp("pages")
    one, runs = made_up_results(tasks=10, classes_each=10), []
    write_report(folder / "one.html", [(folder, one)])
    for method in ("SD-LoRA", "linear probe"):
        for seed in range(5):
            results = made_up_results(tasks=10, classes_each=10, seed=seed, method=method)
            results["arguments"]["method"] = method
            runs.append((folder / method / f"seed{seed}", results))
    write_report(folder / "many.html", runs)
    return folder


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(300)
    yield driver
    driver.quit()


def show(browser, page, width, scheme="light"):
    """Opens a page at a width, and waits until its figures are there."""
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page.as_uri())
    end = time.monotonic() + 240  # a busy machine
    while browser.execute_script("return document.body.dataset.drawn") != "yes":
        assert time.monotonic() < end, "the figures were not drawn"
        time.sleep(0.2)
    browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = true;")


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("name", ["one", "many"])
@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1400, "dark")])
def test_a_browser_draws_every_figure_without_error_or_overlap(pages, browser, name, width, scheme):
    page = pages / f"{name}.html"
    show(browser, page, width, scheme)
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('figure')].map((f) => [f.id, f.querySelector('.chart').dataset.drawn,"
        "f.querySelectorAll('.chart svg path').length])"
    )
    assert len(drawn) == (len(RUN_FIGURES) if name == "one" else 3)
    assert all(told == "yes" and paths > 3 for _, told, paths in drawn), drawn
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(STICKING_OUT) == []
    assert browser.execute_script(OVERLAPPING) == []


@pytest.mark.slow
@needs_browser
def test_tables_are_sorted_and_filtered(pages, browser):
    show(browser, pages / "one.html", 1400)
    table = "document.querySelector(\"table[aria-label='Classes']\")"
    column = f"return [...{table}.tBodies[0].rows].map((r) => parseFloat(r.cells[3].textContent))"
    browser.execute_script(f"{table}.querySelectorAll('th')[3].click()")
    rates = browser.execute_script(column)
    assert rates == sorted(rates)
    browser.execute_script(f"{table}.querySelectorAll('th')[3].click()")
    assert browser.execute_script(column) == sorted(rates, reverse=True)
    browser.execute_script(
        "const i = document.querySelector(\"input[aria-label='filter the classes']\"); i.value = 'class <7>';"
        "i.dispatchEvent(new Event('input'))"
    )
    shown = browser.execute_script(
        f"return [...{table}.tBodies[0].rows].filter((r) => !r.hidden).map((r) => r.textContent)"
    )
    assert 0 < len(shown) < 100
    assert all("class <7>" in row for row in shown)


@pytest.mark.parametrize("name", ["one", "many"])
def test_a_page_needs_nothing_else_and_is_small(pages, name):
    page = pages / f"{name}.html"
    assert os.path.getsize(page) < 2e6
    text = page.read_text(encoding="utf-8")
    assert '<link rel="stylesheet"' not in text
    assert "<script src" not in text
    assert text.count("class &lt;7&gt; &amp; co") > 0 or name == "many"  # names are escaped


def test_the_script_of_a_page_is_put_together_once(monkeypatch, tmp_path):
    made = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda *args, **kwargs: made.append(1) or "js</script>")
    assert {_vega.__wrapped__() for _ in range(2)} == {"js<\\/script>"}
    assert len(made) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(next(tmp_path.rglob("*.js")) / "below"))  # cannot be written to
    assert _vega.__wrapped__() == "js<\\/script>"


def test_several_runs_begin_with_what_differs_in_their_settings(tmp_path):
    runs = []
    for rank in (4, 8):
        for seed in (0, 1):
            results = made_up_results(seed=seed)
            results["arguments"] = {**results["arguments"], "sdlora.rank": rank}
            runs.append((tmp_path / f"{rank}-{seed}", results))
    write_report(tmp_path / "page.html", runs)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "SD-LoRA (rank 4)" in text
    assert "SD-LoRA (rank 8)" in text
    table = text[text.index("What differs in their settings") :].partition("</table>")[0]
    assert "sdlora.rank" in table
    assert "learning_rate" not in table
    assert text.index("What differs in their settings") < text.index("<figure")


def test_the_command_makes_the_page_of_any_runs(tmp_path, monkeypatch, capsys):
    for seed in (0, 1):
        (tmp_path / f"run{seed}").mkdir()
        (tmp_path / f"run{seed}" / "results.json").write_text(json.dumps(made_up_results(seed=seed)))
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path), "--output", str(tmp_path / "page.html")])
    main()
    assert f"report: {tmp_path / 'page.html'}" in capsys.readouterr().out
    assert "seeds 0, 1" in (tmp_path / "page.html").read_text(encoding="utf-8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"there is no results\.json in it"):
        read_runs([str(tmp_path / "empty")])
    (tmp_path / "run0" / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="lacks accuracy_matrix, arguments"):
        read_runs([str(tmp_path / "run0")])


def test_a_page_says_where_it_is_from_without_the_line_breaks_of_a_figure(tmp_path):
    results = made_up_results()
    results["caption"] = "photographs of flowers in a garden: 12345 training and 1234 test images"
    write_report(tmp_path / "page.html", [(tmp_path, results)])
    assert f" · {results['caption']} · " in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_task_that_was_taken_back_is_told():
    results = made_up_results(tasks=3)
    results["decisions"] = [{"kept": kept} for kept in (False, True, False)]
    assert "what tasks 1, 3 had changed in the network" in " ".join(overview(results)["lead"])
    results["decisions"] = [{"kept": True}] * 3
    assert "taken back" not in " ".join(overview(results)["lead"])


def test_whatever_was_decided_becomes_a_table():
    assert decisions([]) is None
    found = decisions([{"rate": 0.02}, {"rate": 0.01, "kept_back": {"images": 12}}])
    assert found == {
        "columns": ["task", "rate", "kept back"],
        "rows": [[1, "0.02", "null"], [2, "0.01", "images 12"]],
    }


def test_the_command_of_a_run_is_told_without_paths():
    told = command(made_up_results())
    assert told.startswith("python -m experiments.run digits --method sdlora")
    assert "--sdlora.rank 10" in told
    assert "runs/made-up" not in told


def test_the_model_card_is_read_by_the_hub(tmp_path):
    from huggingface_hub import ModelCard

    write_model_card(tmp_path / "README.md", made_up_results())
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "avalanche-sdlora"
    metrics = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert metrics["accuracy"] == round(made_up_results()["pooled_acc"], 2)
    assert metrics["expected_calibration_error"] == 0.1
    for told in ("±", "load_model(", "class <7> & co", "For comparison: nearest class mean"):
        assert told in card.text
