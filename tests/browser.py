"""Browser: a headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server",
    "--remote-debugging-port=0", "--window-size=1100,900", "--hide-scrollbars", "--disable-background-networking",
)  # fmt: skip
WAIT_S = 60.0


class Page:
    """One tab. faults: errors of the console, exceptions, and requests that failed or went elsewhere."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.faults: list[str] = []
        self.requested: list[str] = []

    async def listen(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            elif told["method"] in ("Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed"):
                self.faults.append(json.dumps(told["params"]))
            elif told["method"] == "Network.requestWillBeSent":
                self.requested.append(told["params"]["request"]["url"])

    async def do(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        told = await asyncio.wait_for(answer, WAIT_S)
        assert "error" not in told, told
        return dict(told["result"])

    async def value(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        told = await self.do("Runtime.evaluate", expression=script, returnByValue=True)
        return told["result"].get("value")

    async def until(self, script: str) -> Any:
        """The value of the expression as soon as it is true."""
        for _ in range(int(WAIT_S / 0.05)):
            if value := await self.value(script):
                return value
            await asyncio.sleep(0.05)
        raise AssertionError(f"never true: {script}; {self.faults}; {await self.value('document.body.innerText')}")

    async def screenshot(self, path: Path) -> None:
        told = await self.do("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))


@contextlib.asynccontextmanager
async def browsing(folder: Path) -> AsyncIterator[Page]:
    """A tab of a browser whose files are in `folder`."""
    assert CHROMIUM is not None
    process = subprocess.Popen(
        [CHROMIUM, *OPTIONS, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        told = folder / "DevToolsActivePort"
        for _ in range(int(WAIT_S / 0.05)):
            if told.exists() and told.read_text().count("\n"):
                break
            assert process.poll() is None, f"Chromium ended with {process.returncode}"
            await asyncio.sleep(0.05)
        port = told.read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                tabs = [tab for tab in await answer.json() if tab["type"] == "page"]
            async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await page.do(f"{domain}.enable")
                yield page
                listening.cancel()
    finally:
        process.terminate()
        process.wait(WAIT_S)
