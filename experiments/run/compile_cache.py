"""What was compiled for one run is there for the next, in the user's cache folder."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import sys
import tempfile
import warnings

_MOST_BYTES = 2 * 2**30


def keep() -> None:
    """Turns JAX's persistent cache on, unless the user has said where or that not.

    Where that cannot be, as in a folder that cannot be written, one line says so.
    """
    import jax

    config = jax.config
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return
    folder = user_folder() / "compiled"
    try:
        if importlib.util.find_spec("filelock") is None:
            raise OSError("the package filelock is missing")
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        print(f"what is compiled is not kept for the next run: {error}", flush=True)
        return
    config.update("jax_compilation_cache_dir", str(folder))
    # By a lock, with which no process reads what another has written in part.
    config.update("jax_compilation_cache_max_size", _MOST_BYTES)
    config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # Their paths would be part of every entry's key.
    config.update("jax_persistent_cache_enable_xla_caches", "none")
    # What a killed process has left of an entry is compiled again.
    warnings.filterwarnings(
        "ignore", message="Error reading persistent compilation cache entry"
    )


def user_folder() -> pathlib.Path:
    """Where the platform wants the caches of this library."""
    if sys.platform == "darwin":
        usual = pathlib.Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        usual = pathlib.Path(os.environ.get("LOCALAPPDATA") or pathlib.Path.home())
    else:
        usual = pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or usual) / "bns_jax"
