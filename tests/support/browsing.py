"""A real browser for tests: where it is, and what its pages show by pixels. Needs `pip install playwright`."""

import io
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
NO_BROWSER = f"no browser: none of {', '.join(NAMES)} is installed"
WORD = ".word:not(:disabled)"


@contextmanager
def launched() -> Iterator[Any]:
    """A browser, which ends with the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def listened(page: Any, messages: list[str], *, origin: str | None = None, known: Collection[str] = ()) -> Any:
    """The page, whose console messages, errors, dialogs and requests to any but its own server are added to a list.

    Args:
        page: The page.
        messages: The list.
        origin: Start of the addresses of its server; None if it has no server.
        known: Console messages that are left out.
    """
    page.on("console", lambda message: message.text in known or messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("dialog", lambda dialog: messages.append(dialog.message))
    is_own = re.compile(rf"(file|data|blob):|{re.escape(origin or 'file:')}")
    page.on("request", lambda request: is_own.match(request.url) or messages.append(request.url))
    return page


def settled(page: Any) -> None:
    """Wait until the page has drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def pixels(page: Any, selector: Any = "#stage") -> np.ndarray:
    """A part of the page, (128, 128, 3): a selector of `page` or a locator."""
    settled(page)
    part = page.locator(selector) if isinstance(selector, str) else selector
    picture = Image.open(io.BytesIO(part.screenshot())).convert("RGB")
    return np.asarray(picture.resize((128, 128), Image.Resampling.BOX), np.float32)


def word(page: Any, text: str) -> Any:
    """The button of a word of the figure, on a page or in a frame."""
    return page.locator(WORD, has_text=re.compile(rf"^{text}\d|^{text}<")).first
