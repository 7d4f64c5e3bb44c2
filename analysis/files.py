"""Files that are there as a whole or not at all."""

import os
from pathlib import Path


def replace(path: Path, text: str) -> None:
    """Write the whole file under another name first, so that a reader never finds half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", encoding="utf-8", errors="replace", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
