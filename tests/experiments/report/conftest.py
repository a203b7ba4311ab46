"""A realistic report, and a browser to open its page in."""

import copy
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fcntl import F_DUPFD, fcntl
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from upstairs.experiments.report.page import render

SCRIPTS = (
    "Armenian", "Bengali", "Cherokee", "Devanagari", "Georgian", "Hangul", "Hebrew", "Khmer", "Tamil", "Thai",
    "Tifinagh", "Canadian Aboriginal Syllabics",
)  # fmt: skip


def draw_character(kind: int, hand: int) -> np.ndarray:
    """A made-up character of three strokes, written by one hand: [1, 28, 28], bright ink on a dark ground."""
    strokes = np.random.default_rng(kind).uniform(4, 24, (3, 3, 2))
    strokes = strokes + np.random.default_rng(1000 * kind + hand).normal(0, 1.1, strokes.shape)
    image = Image.new("L", (112, 112))
    for stroke in strokes * 4:
        ImageDraw.Draw(image).line([tuple(point) for point in stroke], fill=255, width=9, joint="curve")
    return np.asarray(image.resize((28, 28), Image.Resampling.BOX), dtype=np.uint8)[None]


def make_report() -> dict[str, Any]:
    learners = {"protonet": (0.968, 0.893, 0.991), "maml": (0.951, 0.842, 0.983), "fomaml": (0.941, 0.82, 0.979)}
    baselines = {"nearest_centroid": (0.436, 0.217, 0.652), "scratch": (0.412, 0.182, 0.671)}
    settings = ((5, 1), (20, 1), (5, 5))
    results = [
        {
            "learner": learner, "data": "glyphs", "split": "test", "way": way, "shot": shot, "query": 15, "tasks": 1000,
            "seed": 0, "accuracy": scores[place], "ci95": 0.003, "transductive": learner == "maml", "seconds": 31.4,
            "baselines": {name: {"accuracy": own[place], "ci95": 0.005} for name, own in baselines.items()},
        } | ({"inductive": {"accuracy": scores[place] - 0.02, "ci95": 0.004}} if learner == "maml" else {})
        for learner, scores in learners.items() for place, (way, shot) in enumerate(settings)
    ]  # fmt: skip
    runs = [
        {
            "learner": learner, "steps": 4000, "seconds": 640.0 * (1 + place), "parameters": 113_088 + 325 * place,
            "settings": {"way": 5, "shot": 1, "lr": 0.001, "tasks": 16},
            "history": [
                {
                    "step": step, "seconds": 0.16 * step * (1 + place), "loss": 1.0,
                    "accuracy": scores[0] - 0.5 * float(np.exp(-step / (300 + 500 * place))), "ci95": 0.012,
                }
                for step in range(100, 4001, 100)
            ],
        }
        for place, (learner, scores) in enumerate(learners.items())
    ]  # fmt: skip
    labels = [f"{script} {letter}" for script, letter in zip(SCRIPTS, ("ayb", "ka", "tlo", "ga", "ani"), strict=False)]
    query = [
        {
            "image": draw_character(kind, hand), "label": kind, "probability": 0.93 - 0.01 * hand,
            "predicted": {(1, 4): 3, (1, 9): 3, (4, 2): 0}.get((kind, hand), kind),
        }
        for kind in range(5) for hand in range(1, 16)
    ]  # fmt: skip
    return {
        "title": "Characters of unseen scripts from one example", "data": "glyphs", "split": "test",
        "command": "upstairs report --data glyphs --learners protonet maml fomaml --steps 4000 --seed 0",
        "created": "2031-05-04T12:30:00+00:00", "seconds": 4100.0, "machine": "Linux x86_64, 2 cores",
        "versions": {"upstairs": "0.1.0", "torch": "2.13.0", "python": "3.11.9", "numpy": "2.4.0"},
        "results": results, "runs": runs,
        "episode": {
            "learner": "protonet", "way": 5, "shot": 1, "classes": labels, "accuracy": 0.96, "query": query,
            "support": [{"image": draw_character(kind, 0), "label": kind} for kind in range(5)],
        },
        "differences": [
            {"way": 5, "shot": 1, "baselines": list(baselines), "pairs": [
                {"first": "protonet", "second": "maml", "difference": 0.017, "ci95": 0.002, "clear": True},
                {"first": "protonet", "second": "fomaml", "difference": 0.027, "ci95": 0.028, "clear": False},
                {"first": "protonet", "second": "scratch", "difference": 0.556, "ci95": 0.005, "clear": True},
                {"first": "maml", "second": "fomaml", "difference": 0.01, "ci95": 0.003, "clear": True},
            ]},
        ],
        "depth_steps": [
            {"learner": "maml", "way": 5, "shot": 1, "points": [
                {"steps": k, "accuracy": 0.951 - 0.75 * 0.25**k, "ci95": 0.004} for k in (0, 1, 2, 5, 10, 50)
            ]},
        ],
        "depth_shots": [
            {"learner": name, "way": 5, "points": [
                {"shot": shot, "accuracy": 1 - (1 - own[0]) * shot**-0.8, "ci95": 0.004} for shot in (1, 2, 5, 10, 20)
            ]} for name, own in (learners | baselines).items()
        ],
        "breadth": [
            {"learner": learner, "way": 5, "shot": 1, "points": [
                {"group": script, "accuracy": scores[0] - 0.012 * (7 * place % 11) + 0.02, "ci95": 0.008, "tasks": 200}
                for place, script in enumerate(SCRIPTS)
            ]} for learner, scores in list(learners.items())[:2]
        ],
    }  # fmt: skip


@pytest.fixture(scope="session")
def whole_report() -> dict[str, Any]:
    return make_report()


@pytest.fixture
def report(whole_report: dict[str, Any]) -> dict[str, Any]:
    """A report with every section, free to change."""
    return copy.deepcopy(whole_report)


@pytest.fixture(scope="session")
def whole_page(whole_report: dict[str, Any]) -> str:
    """The page of the whole report, to be read by many tests."""
    return render(whole_report)


@pytest.fixture
def plain_report(report: dict[str, Any]) -> dict[str, Any]:
    """Results and an episode alone: no figure to draw, so it is quick."""
    return {
        key: value
        for key, value in report.items()
        if key not in ("runs", "differences", "depth_steps", "depth_shots", "breadth")
    }


class Browser:
    """Chromium, spoken to by the DevTools protocol through two pipes: no port, no client library."""

    def __init__(self, program: str, profile: Path) -> None:
        # Ends above 10, so that none is in the way when the child makes them 3 and 4, as Chromium wants.
        pairs = [tuple(fcntl(end, F_DUPFD, 10) for end in os.pipe()) for _ in range(2)]
        (take, self._send), (self._receive, give) = pairs
        launch = f"import os, sys; os.dup2({take}, 3); os.dup2({give}, 4); os.execv(sys.argv[1], sys.argv[1:])"
        flags = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
            "--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", launch, program, *flags.split(), f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(take, give), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(profile)},
        )  # fmt: skip
        os.close(take)
        os.close(give)
        self._buffer, self._count = b"", 0
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        self.width = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer of one command; events on the way are kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        os.write(
            self._send, json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0"
        )
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def wait(self, method: str) -> None:
        """Until an event has been seen."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._read())

    def _read(self, patience: float = 60.0) -> dict[str, Any]:
        end = time.monotonic() + patience
        while b"\0" not in self._buffer:
            if not select.select([self._receive], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("chromium did not answer")
            self._buffer += os.read(self._receive, 1 << 16) or pytest.fail("chromium went away")
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def close(self) -> None:
        self.session = None
        self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._send)
        os.close(self._receive)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests; they skip where there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium, chromium-browser or google-chrome is installed")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Browser]]:
    """Opens a file in a new tab of a given width and colour scheme; `browser.events` then holds what happened."""
    browser.session, browser.events = None, []
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def visit(path: Path, *, width: int = 1280, scheme: str = "light") -> Browser:
        browser.session, browser.width = session, width
        for domain in ("Page", "Runtime", "Log", "Network"):
            browser.call(f"{domain}.enable")
        browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600
        )
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.events = []
        browser.call("Page.navigate", url=path.as_uri())
        browser.wait("Page.loadEventFired")
        return browser

    yield visit
    browser.session = None
    browser.call("Target.closeTarget", targetId=target)
