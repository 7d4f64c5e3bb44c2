"""Pages opened in headless Chromium, with all that they ask for and complain about."""

from pathlib import Path
from typing import Any

EVIL = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1><b>bold</b><a href='javascript:hack()'>&amp;"
"""A text that would do harm where it is taken for HTML."""


class Visit:
    """One report in one tab, with all that it asked for and complained about."""

    def __init__(self, browser: Any, page: Path) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.tab = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        self.tab.set_default_timeout(120_000)
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        self.tab.goto(page.as_uri())
        self.settle()

    def settle(self) -> None:
        """Wait until every figure is drawn."""
        drawn = "[...document.querySelectorAll('.figure')].every(place => place.querySelector('.main-svg'))"
        self.tab.wait_for_function(drawn)
        self.tab.wait_for_timeout(200)

    def points(self, part: str = "main") -> list[int]:
        """How many values the traces of each figure hold."""
        script = """part => [...document.querySelectorAll(part + ' .figure')].map(place => place._fullData.reduce(
            (sum, trace) => sum + (trace.dimensions ? trace.dimensions[0].values.length : trace.x.length), 0))"""
        counts: list[int] = self.tab.evaluate(script, part)
        return counts

    def brush(self, axis: int, low: float, high: float) -> list[float]:
        """Drag along an axis of the parallel coordinates, from and to shares of its height; returns the kept range."""
        place = self.tab.locator("#parallel .axis-brush").nth(axis)
        place.scroll_into_view_if_needed()
        box = place.bounding_box()
        x, bottom = box["x"] + box["width"] / 2, box["y"] + box["height"]
        self.tab.mouse.move(x, bottom - low * box["height"])
        self.tab.mouse.down()
        self.tab.mouse.move(x, bottom - high * box["height"], steps=4)
        self.tab.mouse.up()
        kept = f"document.querySelector('#parallel .figure').data[0].dimensions[{axis}].constraintrange"
        self.tab.wait_for_function(kept)
        self.tab.wait_for_timeout(300)
        found: list[float] = self.tab.evaluate(kept)
        return found

    def listed(self) -> list[str]:
        """The trials in the table below."""
        return self.texts("#listing tbody tr:not(.details) td:first-child")

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.tab.locator(selector).all_text_contents()
        return found
