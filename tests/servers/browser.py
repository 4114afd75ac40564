"""Debian's Chromium without a window, driven by its own protocol through two pipes."""

import base64
import json
import os
import pathlib
import select
import shutil
import subprocess
import time
from typing import Any

SECONDS = 30


class Browser:
    """One page. What it complains of is kept: exceptions, console errors, and what its policies have blocked."""

    def __init__(self, folder: pathlib.Path, *, width: int = 1100, height: int = 800) -> None:
        program = shutil.which("chromium")
        assert program is not None, "chromium is missing. What to do: make tools"
        read, write = os.pipe(), os.pipe()
        self._answers, self._questions = read[0], write[1]
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
        quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
        command = [program, *options, *quiet, "--remote-debugging-pipe", f"--user-data-dir={folder}"]
        command += [f"--window-size={width},{height}", "about:blank"]
        # It asks at descriptor 3 and answers at 4.
        ends = f'exec "$@" 3<&{write[0]} 4>&{read[1]} {write[0]}<&- {read[1]}>&-'
        with (folder.parent / "chromium.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", ends, "bash", *command],
                pass_fds=(write[0], read[1]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": str(folder.parent), "LANG": "en_GB.UTF-8", "TZ": "UTC"},
                start_new_session=True,
            )
        os.close(write[0])
        os.close(read[1])
        self._number, self._rest, self._session = 0, b"", ""
        self.complaints: list[Any] = []
        self.requests: list[str] = []
        page = next(each for each in self._ask("Target.getTargets")["targetInfos"] if each["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def _ask(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._questions, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while True:
            *told, self._rest = self._rest.split(b"\0")
            answers = [answer for each in told if (answer := json.loads(each)).get("id") or self._note(answer)]
            for answer in answers:
                if answer["id"] == self._number:
                    assert "error" not in answer, answer
                    return answer["result"]
            assert select.select([self._answers], [], [], end - time.monotonic())[0], f"no answer to {method}"
            chunk = os.read(self._answers, 1 << 16)
            assert chunk, "chromium has ended"
            self._rest += chunk

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event["params"]
        if event["method"] == "Runtime.exceptionThrown":
            self.complaints.append(parameters["exceptionDetails"])
        elif event["method"] == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(parameters["entry"])
        elif event["method"] == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])

    def open(self, address: str) -> None:
        self._ask("Page.navigate", url=address)

    def __call__(self, expression: str) -> Any:
        """What the page's JavaScript makes of it."""
        result = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def text(self, selector: str) -> str:
        """As people see it; empty where nothing is to be seen."""
        return str(self(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def prefer(self, scheme: str) -> None:
        """dark or light"""
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self) -> bytes:
        """A PNG of the whole page."""
        return base64.b64decode(self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"])

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
        self.process.wait(SECONDS)
        os.close(self._answers)
        os.close(self._questions)
