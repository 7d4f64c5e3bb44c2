"""Files that are there as a whole or not at all."""

import os
from pathlib import Path


def replace(path: Path, content: str | bytes) -> None:
    """Write the whole file under another name first, so that a reader never finds half of it."""
    data = content if isinstance(content, bytes) else content.encode(errors="replace")
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
