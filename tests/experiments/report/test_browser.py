"""The page in a real browser: it says nothing to the console, asks the network for nothing, and fits a phone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from upstairs.experiments.report.page import write_report

# Not given to `render`: a page that must be found guilty of everything.
GUILTY = (
    "<!doctype html><meta name=viewport content='width=device-width'><div style='width: 900px'>wide</div>"
    "<img src='http://127.0.0.1:9/x.png'>"
    "<script>console.warn('hear me'); setTimeout(() => { throw Error('lost') })</script>"
)
SMALLEST_TEXT = """Math.min(...[...document.querySelectorAll('svg.figure')].flatMap(svg =>
    [...svg.querySelectorAll('text')].map(text =>
        parseFloat(getComputedStyle(text).fontSize) * svg.clientWidth / svg.viewBox.baseVal.width)))"""


def evaluate(browser: Any, expression: str) -> Any:
    return browser.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]


def find_faults(browser: Any, page: Path) -> list[str]:
    """What the browser complained of, what it asked for besides the page, and whether it must scroll sideways."""
    evaluate(browser, "new Promise(done => setTimeout(done, 50))")
    faults = []
    for event in browser.events:
        what, parameters = event.get("method"), event.get("params", {})
        if what == "Runtime.consoleAPICalled":
            faults.append(f"console: {parameters['args'][0].get('value')}")
        elif what == "Runtime.exceptionThrown":
            faults.append(f"exception: {parameters['exceptionDetails']['exception']['description']}")
        elif what == "Log.entryAdded":
            faults.append(f"log: {parameters['entry']['text']}")
        elif what == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            if url != page.as_uri() and not url.startswith("data:"):
                faults.append(f"request: {url}")
    width = evaluate(browser, "document.documentElement.scrollWidth")
    window = browser.width
    return faults + ([f"overflow: {width} > {window}"] if width > window else [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_quiet_and_fits(
    report: dict[str, Any], visit: Callable[..., Any], tmp_path: Path, width: int, scheme: str
) -> None:
    page = write_report(report, tmp_path / "report.html")
    browser = visit(page, width=width, scheme=scheme)
    assert find_faults(browser, page) == []
    assert evaluate(browser, f"matchMedia('(prefers-color-scheme: {scheme})').matches")
    paper, ink = evaluate(
        browser, "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (sum(map(int, paper[4:-1].split(","))) > sum(map(int, ink[4:-1].split(",")))) == (scheme == "light")
    assert evaluate(browser, SMALLEST_TEXT) >= 11
    assert evaluate(browser, "[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_long_words_do_not_widen_the_page(report: dict[str, Any], visit: Callable[..., Any], tmp_path: Path) -> None:
    long = "x" * 200
    report |= {"title": long, "command": f"upstairs --data /{long}", "machine": long}
    report["episode"]["classes"][0] = report["results"][0]["learner"] = report["breadth"][0]["points"][0]["group"] = (
        long
    )
    page = write_report(report, tmp_path / "report.html")
    assert find_faults(visit(page, width=390), page) == []


def test_faults_are_found(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = tmp_path / "guilty.html"
    page.write_text(GUILTY)
    faults = find_faults(visit(page, width=390), page)
    kinds = {fault.partition(":")[0] for fault in faults}
    assert kinds == {"console", "exception", "log", "request", "overflow"}
