"""What the mutants of the library are."""

import ast

import pytest

from experiments.tools import mutants

KINDS = {"sign", "operator", "index", "order", "comparison", "raise"}
FILES = ["schedulers/base.py", "ns/trace.py", "metrics/psnr.py"]


@pytest.mark.parametrize("name", FILES)
def test_a_mutant_is_another_program_in_one_place(name):
    path = mutants.ROOT / "bns_jax" / name
    source = path.read_text()
    before = ast.dump(ast.parse(source))
    found = list(mutants.mutants_of(path))
    assert found
    for mutant in found:
        assert ast.dump(ast.parse(mutant.source)) != before, mutant
        assert mutant.kind in KINDS
        parts = source.split(mutant.before)
        assert mutant.source in {
            mutant.before.join(parts[:i]) + mutant.after + mutant.before.join(parts[i:])
            for i in range(1, len(parts))
        }


@pytest.mark.exhaustive
def test_a_seed_draws_the_same_of_all_kinds_alike():
    drawn = mutants.draw(12, seed=3)
    assert drawn == mutants.draw(12, seed=3) != mutants.draw(12, seed=4)
    assert {mutant.kind for mutant in drawn} == KINDS
    assert all(mutant.path.parts[0] == "bns_jax" for mutant in drawn)
