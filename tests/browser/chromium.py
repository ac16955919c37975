"""Debian's Chromium without a window, driven over a pipe by its DevTools protocol; needs nothing else installed.

Source: https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
ENTER = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
SPACE = {"key": " ", "code": "Space", "windowsVirtualKeyCode": 32, "text": " "}
TAB = {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}


class Chromium:
    """A browser with one page. `events` holds what the page reported, in order."""

    def __init__(self, profile):
        program = next(filter(None, map(shutil.which, NAMES)), None)
        assert program, "no chromium; Debian: apt-get install chromium"
        (theirs, self.requests), (self.answers, their_answers) = os.pipe(), os.pipe()
        options = ["--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run",
                   "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
                   "--disable-component-update", "--hide-scrollbars"]  # fmt: skip
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # root has none

        def on_three_and_four():  # the file descriptors that Chromium reads from and writes to
            first, second = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs, their_answers))
            os.dup2(first, 3)
            os.dup2(second, 4)

        self.process = subprocess.Popen(
            [program, *options, "about:blank"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, preexec_fn=on_three_and_four, close_fds=False,
        )  # fmt: skip
        os.close(theirs)
        os.close(their_answers)
        self.numbers, self.rest, self.events, self.session = itertools.count(1), b"", [], None
        page = next(its for its in self("Target.getTargets")["targetInfos"] if its["type"] == "page")
        self.session = self("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def _message(self, until):
        while b"\0" not in self.rest:
            ready = select.select([self.answers], [], [], max(0.0, until - time.monotonic()))[0]
            assert ready, "Chromium does not answer"
            part = os.read(self.answers, 1 << 16)
            assert part, "Chromium has ended"
            self.rest += part
        text, _, self.rest = self.rest.partition(b"\0")
        return json.loads(text)

    def __call__(self, method, **params):
        """A command's result."""
        number = next(self.numbers)
        request = {"id": number, "method": method, "params": params}
        if self.session:
            request["sessionId"] = self.session
        os.write(self.requests, json.dumps(request).encode() + b"\0")
        until = time.monotonic() + 60
        while True:
            message = self._message(until)
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.events.append(message)

    def wait(self, method):
        """The next event of that name, if none of `events` is one."""
        until = time.monotonic() + 60
        while True:
            for event in self.events:
                if event.get("method") == method:
                    return event["params"]
            self.events.append(self._message(until))

    def open(self, path):
        """Load a page from a file, with the events from then on."""
        self.events.clear()
        self("Page.navigate", url=path.resolve().as_uri())
        self.wait("Page.loadEventFired")
        self.js("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")  # all it has to say is said

    def js(self, code):
        """The value of an expression, or of the promise that it is."""
        found = self("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key):
        """A key, down and up."""
        self("Input.dispatchKeyEvent", type="keyDown", **key)
        self("Input.dispatchKeyEvent", type="keyUp", **{name: its for name, its in key.items() if name != "text"})

    def click(self, selector):
        """A click with the mouse on the middle of an element."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.js(f"{found}.scrollIntoView({{block: 'center', inline: 'center', behavior: 'instant'}})")
        x, y, width, height = self.js(f"(r => [r.x, r.y, r.width, r.height])({found}.getBoundingClientRect())")
        place = {"x": x + width / 2, "y": y + height / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, **place, button="left", clickCount=1)

    def look(self, width=1280, scheme="light"):
        """How wide the window is, and what the reader prefers."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self("Emulation.setEmulatedMedia", media="", features=features)

    def screenshot(self, path, whole=True):
        """A PNG of the page."""
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))

    def pdf(self):
        """The page as it is printed."""
        return base64.b64decode(self("Page.printToPDF", preferCSSPageSize=True, printBackground=False)["data"])

    def said(self):
        """Errors, warnings and exceptions on the console."""
        found = [its["params"]["entry"]["text"] for its in self.events if its.get("method") == "Log.entryAdded"]
        found += [str(its["params"]["args"]) for its in self.events if its.get("method") == "Runtime.consoleAPICalled"]
        exceptions = [its["params"] for its in self.events if its.get("method") == "Runtime.exceptionThrown"]
        return found + [str(its["exceptionDetails"]) for its in exceptions]

    def requested(self):
        """The addresses that the page asked for."""
        return [
            its["params"]["request"]["url"] for its in self.events if its.get("method") == "Network.requestWillBeSent"
        ]

    def close(self):
        """End the browser."""
        try:
            self.session = None
            self("Browser.close")
        except (AssertionError, OSError):
            self.process.kill()
        finally:
            self.process.wait(30)
            os.close(self.requests)
            os.close(self.answers)
