"""A Chromium of this machine, and the page of a server of a small random model in it."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from model_server import Server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 20_000  # ms


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:  # not longer: while Playwright runs, no other test can run an event loop
    if CHROMIUM is None:
        pytest.skip("tests of the page need a Chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, server: Server) -> Iterator[Callable[..., Any]]:
    """Opens pages. At the end of the test none has asked another host for anything, and none has had an error."""
    contexts, foreign, problems = [], [], []

    def watch(request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            foreign.append(request.url)

    def hear(message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:  # the server's refusals
            problems.append(message.text)

    def opened(url: str | None = None, **options: Any) -> Any:
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("request", watch)
        page.on("console", hear)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url or server.url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert foreign == [] and problems == []


@pytest.fixture
def page(open_page: Callable[..., Any]) -> Any:
    return open_page()
