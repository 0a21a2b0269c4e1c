"""Changes the library in one small place after another, and asks whether tests notice.

    python -m experiments.tools.mutants --count=30 --seed=0

draws mutants of `bns_jax` from a seed: another sign, operator, index, comparison or
order of arguments, or a `raise` that is gone. Each is made in a copy of the project.
The tests nearest to it run first, then the fast suite, up to the first failure.
Those that survive are listed last: each is equivalent, or lacks a test.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from experiments.run import cli
from experiments.run.config import Config, option

ROOT = pathlib.Path(__file__).parents[2]
_LEFT_OUT = {".git", ".venv", "runs", "site", "__pycache__"}
_SECONDS = 1200
_NEAREST = 6
_DEFINED = (ast.FunctionDef, ast.ClassDef)
_OPERATORS: dict[type, Any] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}


@dataclasses.dataclass(frozen=True)
class MutantsConfig(Config):
    """Which mutants."""

    count: int = option(30, "How many.", least=1)
    seed: int = option(0, "Of the draw.", least=0)
    first: int = option(0, "How many of them to pass over.", least=0)
    list: bool = option(False, "Only print them.")


class Mutant(NamedTuple):
    """A change in one place.

    Attributes:
      path: of the file, from the root of the project.
      line: its number, from 1.
      kind: sign, operator, index, order, comparison or raise.
      before: what stands there.
      after: what stands there instead.
      source: the whole file with it.
    """

    path: pathlib.Path
    line: int
    kind: str
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        """In one line."""
        before, after = (" ".join(text.split()) for text in (self.before, self.after))
        return f"{self.path}:{self.line} {self.kind}: {before:.50} -> {after:.50}"


def main(config: MutantsConfig) -> None:
    """Prints a line per mutant, and how many were caught."""
    drawn = draw(config.count, config.seed)[config.first :]
    survivors = []
    for mutant in drawn:
        told = "" if config.list else f"{caught_by(mutant) or 'SURVIVED'}  "
        if told.startswith("SURVIVED"):
            survivors.append(mutant)
        print(f"{told}{mutant}", flush=True)
    if not config.list:
        print(f"\n{len(drawn) - len(survivors)} of {len(drawn)} caught")
    if survivors:
        sys.exit("error: survived:\n" + "\n".join(map(str, survivors)))


def draw(count: int, seed: int) -> list[Mutant]:
    """Mutants of all kinds alike, at places that a seed draws.

    Args:
      count: how many.
      seed: of the draw.
    """
    places = collections.defaultdict(list)
    for path in sorted((ROOT / "bns_jax").rglob("*.py")):
        for mutant in mutants_of(path):
            places[mutant.kind].append(mutant)
    rng, kinds = random.Random(seed), sorted(places)
    return [rng.choice(places[kinds[i % len(kinds)]]) for i in range(count)]


def mutants_of(path: pathlib.Path) -> Iterator[Mutant]:
    """All mutants of a file, in their order.

    Args:
      path: of the file, inside the project.
    """
    source = path.read_text()
    lines = source.encode().splitlines(keepends=True)
    starts = [sum(map(len, lines[:i])) for i in range(len(lines) + 1)]
    for node in _code(ast.parse(source)):
        for kind, changed in _changes(node):
            first = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[operator]
            data = source.encode()
            text = data[:first] + changed.encode() + data[end:]
            before = data[first:end].decode()
            where = path.relative_to(ROOT)
            yield Mutant(where, node.lineno, kind, before, changed, text.decode())


def _code(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """What is run: no annotations, and no texts, whose parts have no place."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.JoinedStr) or not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.expr | ast.stmt):
                yield child
            yield from _code(child)


def _changes(node: ast.expr | ast.stmt) -> Iterator[tuple[str, str]]:
    """(kind, text) of what may stand in the place of a node."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "sign", f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        op = _OPERATORS[type(node.op)]()
        yield "operator", f"({ast.unparse(ast.BinOp(node.left, op, node.right))})"
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in _OPERATORS:
        ops = [_OPERATORS[type(node.ops[0])](), *node.ops[1:]]
        changed = ast.Compare(node.left, ops, node.comparators)
        yield "comparison", f"({ast.unparse(changed)})"
    elif isinstance(node, ast.Subscript) and _is_index(node.slice):
        index = ast.literal_eval(node.slice) + 1
        yield "index", f"{ast.unparse(node.value)}[{index}]"
    elif isinstance(node, ast.Call) and len(node.args) > 1:
        if not any(isinstance(argument, ast.Starred) for argument in node.args[:2]):
            args = [node.args[1], node.args[0], *node.args[2:]]
            yield "order", ast.unparse(ast.Call(node.func, args, node.keywords))
    elif isinstance(node, ast.Raise):
        yield "raise", "pass"


def _is_index(node: ast.expr) -> bool:
    negated = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    number = node.operand if negated else node  # type: ignore[attr-defined]
    return isinstance(number, ast.Constant) and type(number.value) is int


def caught_by(mutant: Mutant) -> str:
    """What noticed: the tests nearest to it, or the suite; "" for nobody.

    Args:
      mutant: to be made in a copy of the project.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "project"
        ignore = shutil.ignore_patterns(*_LEFT_OUT)
        shutil.copytree(ROOT, copy, ignore=ignore)
        (copy / mutant.path).write_text(mutant.source)
        nearest = _nearest(mutant)
        for who, tests in (("its tests", nearest), ("the suite", ["tests"])):
            if tests and not _passes(copy, tests):
                return who
    return ""


def _nearest(mutant: Mutant) -> list[str]:
    """The test files named after its module or package, or naming what is in it."""
    path = mutant.path
    stems = {name.rstrip("s") for name in (path.stem, path.parent.name)}
    tree = ast.parse((ROOT / path).read_text())
    own = [node.name for node in tree.body if isinstance(node, _DEFINED)]
    public = [name for name in own if not name.startswith("_")]
    found = {
        file.name: sum(re.search(rf"\b{name}\b", text) is not None for name in public)
        + len(public) * any(stem in file.stem for stem in stems - {"bns_jax"})
        for file in (ROOT / "tests").glob("test_*.py")
        if (text := file.read_text())
    }
    nearest = sorted(found, key=lambda name: (-found[name], name))[:_NEAREST]
    return [f"tests/{name}" for name in nearest if found[name]]


def _passes(copy: pathlib.Path, tests: list[str]) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", *tests]
    try:
        done = subprocess.run(
            command,
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    cli.launch(main, MutantsConfig)
