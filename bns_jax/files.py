"""Files that are whole at every moment, whenever their writer dies."""

from __future__ import annotations

from etils import epath


def write(path: epath.PathLike, data: str | bytes) -> None:
    """Writes a file under a temporary name, then moves it to its own.

    Whoever reads it finds what was there before or all of what is new.

    Args:
      path: the file; its folder is made.
      data: its contents; text becomes UTF-8.
    """
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_bytes(data.encode() if isinstance(data, str) else data)
    unfinished.replace(path)
