"""Laws of what is compiled once: kept for the next process, where it can be."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from experiments.run import compile_cache

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
    "jax_persistent_cache_enable_xla_caches",
)


@pytest.fixture
def unset(monkeypatch, tmp_path):
    """A process in which nobody has said where; its user's cache folder."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    yield tmp_path / "caches"
    for name, value in before.items():
        jax.config.update(name, value)


def test_it_is_in_the_cache_folder_of_the_user(unset):
    compile_cache.keep()
    folder = unset / "bns_jax" / "compiled"
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert folder.is_dir()


def test_what_the_user_has_said_stays(unset):
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    compile_cache.keep()
    assert jax.config.jax_compilation_cache_dir == "elsewhere"
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    compile_cache.keep()
    assert jax.config.jax_compilation_cache_dir is None
    assert not unset.exists()


def test_a_folder_that_cannot_be_made_is_one_line_and_the_run_goes_on(unset, capsys):
    unset.write_text("a file")
    compile_cache.keep()
    assert jax.config.jax_compilation_cache_dir is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("what is compiled is not kept for the next run: ")


def test_without_a_package_for_locks_nothing_is_kept(unset, capsys, monkeypatch):
    monkeypatch.setattr(compile_cache.importlib.util, "find_spec", lambda name: None)
    compile_cache.keep()
    assert jax.config.jax_compilation_cache_dir is None
    assert "filelock is missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("platform", "folder"),
    [("linux", ".cache"), ("darwin", "Library/Caches"), ("win32", ".")],
)
def test_every_platform_has_its_folder(monkeypatch, tmp_path, platform, folder):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
    monkeypatch.setattr(compile_cache.sys, "platform", platform)
    assert compile_cache.user_folder() == tmp_path / folder / "bns_jax"


PROGRAM = """
import jax, jax.numpy as jnp
from experiments.run import compile_cache
compile_cache.keep()
print(jax.jit(lambda x: jnp.tanh(x) @ x)(jnp.ones((3, 3), "float32"))[0, 0])
"""


@pytest.mark.exhaustive
def test_a_second_process_finds_it_also_where_a_first_was_killed(tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    env |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)}
    env |= {"PYTHONWARNINGS": "error"}

    def run():
        command = [sys.executable, "-c", PROGRAM]
        return subprocess.check_output(command, env=env, stderr=subprocess.STDOUT)

    first, folder = run(), tmp_path / "bns_jax" / "compiled"
    entries = {path.name for path in folder.glob("*-cache")}
    assert entries
    assert run() == first
    assert {path.name for path in folder.glob("*-cache")} == entries
    for path in folder.glob("*-cache"):
        path.write_bytes(path.read_bytes()[:-9])
    assert run() == first
