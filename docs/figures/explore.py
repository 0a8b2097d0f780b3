"""Take the pictures of docs/explore.md.

    python docs/figures/explore.py --out docs/images/explore.png            # the page that tadp show writes
    python docs/figures/explore.py --app --out docs/images/explore-app.png  # tadp explore

It needs Chromium and `pip install playwright`, and for --app also `pip install 'tadp[app]'`. The first page shows
docs/images/scene.png, and the second shows its first example.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCENE = Path(__file__).parents[1] / "images" / "scene.png"
TADP = (sys.executable, "-m", "tadp")
OPTIONS = ("--caption", "a cat, a bus and a dog")


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--app", action="store_true", help="take the picture of tadp explore")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        if options.app:
            with served() as address:
                take_app(browser, address, options.out)
        else:
            with tempfile.TemporaryDirectory() as folder:
                page = Path(folder, "page.html")
                subprocess.run([*TADP, "show", str(SCENE), *OPTIONS, "-o", str(page)], check=True)
                take(browser, page, options.out)
        browser.close()


def take(browser, page: Path, out: Path) -> None:
    """Pin the cat and the bus, move to the dog, and save a screenshot."""
    window = browser.new_page(viewport={"width": 980, "height": 500}, color_scheme="light")
    window.goto(page.absolute().as_uri())
    for word in ("cat", "bus"):
        window.locator(".word", has_text=word).click()
    box = window.locator("#stage").bounding_box()
    window.mouse.move(box["x"] + 0.84 * box["width"], box["y"] + 0.73 * box["height"])
    window.wait_for_timeout(200)
    window.screenshot(path=out)
    window.close()


@contextmanager
def served() -> Iterator[str]:
    """The address of tadp explore while it runs."""
    with subprocess.Popen([*TADP, "explore", "--port", "0"], stdout=subprocess.PIPE, text=True) as server:
        yield server.stdout.readline().split()[1]
        server.terminate()


def take_app(browser, address: str, out: Path) -> None:
    """Click the first example, move to a word of the first figure, and save a screenshot."""
    window = browser.new_page(viewport={"width": 1280, "height": 1000}, color_scheme="light")
    window.set_default_timeout(120_000)
    window.goto(address)
    window.locator(".gallery-item").first.click()
    window.locator("#difference h2").wait_for()
    window.frame_locator("#view-A iframe").locator(".word", has_text="boat").hover()
    window.wait_for_timeout(500)
    window.screenshot(path=out)
    window.close()


if __name__ == "__main__":
    main()
