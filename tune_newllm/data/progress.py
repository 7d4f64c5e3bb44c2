"""One progress bar on stderr."""

from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], description: str, show: bool) -> Iterable[Item]:
    """The items themselves, with a bar that follows them if `show` is true and stderr is a terminal."""
    if not show:
        return items
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(stderr=True)
    return rich_track(items, description, console=console, transient=True, disable=not console.is_terminal)
