"""A real browser without a window, spoken to over a pipe (Chrome DevTools Protocol)."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
"""None where none is installed."""


@dataclass(frozen=True)
class Seen:
    """A page as a browser shows it.

    errors    what it logged: messages on the console, exceptions, what it was not allowed to load
    requests  addresses it asked for
    width     of the whole page, pixels; window: of what is in sight
    colours   computed: of the page and of its text
    """

    errors: tuple[str, ...]
    requests: tuple[str, ...]
    width: int
    window: int
    colours: tuple[str, str]
    broken_pictures: int
    png: bytes


class Browser:
    """One running browser."""

    def __init__(self, send: Callable[[bytes], object], receive: Callable[[], bytes]) -> None:
        self._send, self._receive = send, receive
        self._numbers = itertools.count(1)
        self._events: list[dict[str, Any]] = []

    def look(self, page: Path, width: int, height: int, scheme: str, whole: bool = True) -> Seen:
        """Open a page in a window of this size, in pixels, in the light or the dark scheme."""
        target = self._ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self._ask("Target.attachToTarget", {"targetId": target, "flatten": True})
        tab = session["sessionId"]
        self._events.clear()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        feature = {"name": "prefers-color-scheme", "value": scheme}
        for method, told in (
            *((f"{domain}.enable", {}) for domain in ("Page", "Log", "Runtime", "Network")),
            ("Emulation.setDeviceMetricsOverride", size),
            ("Emulation.setEmulatedMedia", {"features": [feature]}),
            ("Page.navigate", {"url": page.absolute().as_uri()}),
        ):
            self._ask(method, told, tab)
        self._wait_for("Page.loadEventFired")
        root = "document.documentElement"
        style = "getComputedStyle(document.body)"
        values = self._ask(
            "Runtime.evaluate",
            {
                "returnByValue": True,
                "expression": f"[{root}.scrollWidth, window.innerWidth, {style}.backgroundColor, "
                f"{style}.color, [...document.images].filter(i => !i.naturalWidth).length]",
            },
            tab,
        )["result"]["value"]
        shot = self._ask("Page.captureScreenshot", {"captureBeyondViewport": whole}, tab)
        self._ask("Target.closeTarget", {"targetId": target})
        return Seen(
            errors=tuple(map(json.dumps, filter(_is_error, self._events))),
            requests=tuple(
                event["params"]["request"]["url"]
                for event in self._events
                if event["method"] == "Network.requestWillBeSent"
            ),
            width=values[0],
            window=values[1],
            colours=(values[2], values[3]),
            broken_pictures=values[4],
            png=base64.b64decode(shot["data"]),
        )

    def _ask(self, method: str, told: dict[str, Any], tab: str | None = None) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": told}
        self._send(json.dumps(message | ({"sessionId": tab} if tab else {})).encode() + b"\0")
        while True:
            answer = json.loads(self._receive())
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer)
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def _wait_for(self, method: str) -> None:
        while not any(event.get("method") == method for event in self._events):
            self._events.append(json.loads(self._receive()))


def _is_error(event: dict[str, Any]) -> bool:
    return event["method"] in (
        "Log.entryAdded",
        "Runtime.exceptionThrown",
        "Runtime.consoleAPICalled",
        "Network.loadingFailed",
    )


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser of its own, which reads descriptor 3 and writes descriptor 4."""
    assert BROWSER is not None
    ours_in, theirs_out = map(_move_up, os.pipe())
    theirs_in, ours_out = map(_move_up, os.pipe())

    def hand_over() -> None:
        os.dup2(theirs_in, 3)
        os.dup2(theirs_out, 4)

    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        process = subprocess.Popen(
            [BROWSER, *flags, "--remote-debugging-pipe", f"--user-data-dir={home}", "about:blank"],
            preexec_fn=hand_over,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            with os.fdopen(ours_in, "rb") as answers, os.fdopen(ours_out, "wb", 0) as orders:
                yield Browser(orders.write, lambda: _read_message(answers))
                orders.write(b'{"id": 0, "method": "Browser.close"}\0')
        finally:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _move_up(descriptor: int) -> int:
    """The same above 9, so that 3 and 4 are free."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved


def _read_message(answers: Any) -> bytes:
    message = bytearray()
    while (byte := answers.read(1)) != b"\0":
        assert byte, "the browser ended"
        message += byte
    return bytes(message)
