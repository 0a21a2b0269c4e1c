"""The house: floors, what an import loads, and the names that users may rely on."""

import ast
import functools
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import bns_jax

ROOT = Path(bns_jax.__file__).parents[1]

FLOORS = [
    {
        "typing",
        "pytree",
        "scalars",
        "kinds",
        "checks",
        "conditioning",
        "identity",
        "held",
        "derivatives",
        "traced_field",
        "moved",
        "notices",
        "tables",
        "version",
    },
    {
        "schedulers",
        "velocity",
        "path_ends",
        "guidance",
        "conventions",
        "residual",
        "grids",
    },
    {"ns", "scale_time"},
    {"solvers", "families"},
    {
        "problem",
        "ground_truth",
        "accuracy",
        "reference",
        "ode",
        "lanes",
        "refilling",
        "shards",
        "pairs",
        "probing",
        "progress",
        "comparison",
        "finding",
        "results_store",
        "pair_checks",
        "pair_store",
        "pair_manifest",
        "leaf_files",
        "lock",
        "distill",
        "metrics",
        "models",
        "checkpoint",
        "parallel",
        "interchange",
        "solver_record",
        "purpose",
        "expectation",
        "files",
        "unpickle",
    },
]
"""The modules of bns_jax from the ground up; experiments/ stands on top of them."""

FLOOR = {module: floor for floor, names in enumerate(FLOORS) for module in names}
EXPERIMENTS = len(FLOORS)
LIGHT = 3
"""Up to this floor jax (and NumPy and SciPy, which it brings) is all there is."""

KNOW_NO_SOLVER = {"ns", "scale_time", "solvers", "families", "distill", "ground_truth"}

FILES = sorted(
    path.relative_to(ROOT)
    for package in ("bns_jax", "experiments")
    for path in (ROOT / package).rglob("*.py")
)


def module_of(path):
    """The name that the floors know it by; None for bns_jax/__init__.py itself."""
    name = path.parts[1].removesuffix(".py")
    return None if name == "__init__" else name


def floor_of(path):
    return EXPERIMENTS if path.parts[0] == "experiments" else FLOOR[module_of(path)]


@functools.cache
def nodes(path):
    """All of a file's syntax tree."""
    return tuple(ast.walk(ast.parse((ROOT / path).read_text())))


def imports(path):
    """Full names of all that a file imports, at its top or anywhere inside."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = path.parts[: -node.level]
                base = ".".join([*package, base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def own_modules(path):
    """The modules of bns_jax that a file imports."""
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "bns_jax":
            yield parts[1] if len(parts) > 1 else None


library = [path for path in FILES if path.parts[0] == "bns_jax"]
below_the_roof = [path for path in library if path.parts[1] != "__init__.py"]
light = [path for path in below_the_roof if FLOOR.get(module_of(path), 9) <= LIGHT]


def each(files):
    return pytest.mark.parametrize("path", files, ids=str)


@each(below_the_roof)
def test_every_module_has_a_floor(path):
    assert module_of(path) in FLOOR


@each(below_the_roof)
def test_no_import_points_up_a_floor(path):
    names = list(imports(path))
    assert not [name for name in names if name.split(".")[0] == "experiments"]
    for module in own_modules(path):
        assert module in FLOOR, f"{path} imports bns_jax itself, not one of its modules"
        assert FLOOR[module] <= floor_of(path), f"{path} imports {module}, a floor up"


@each(light)
def test_lower_floors_need_jax_alone(path):
    allowed = {"jax", "numpy", "scipy", "bns_jax", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in imports(path)} <= allowed


@each([path for path in library if module_of(path) == "models"])
def test_models_know_no_solver(path):
    assert not KNOW_NO_SOLVER & set(own_modules(path))


@each([path for path in below_the_roof if module_of(path) != "models"])
def test_no_solver_knows_a_model(path):
    assert "models" not in own_modules(path)


@each(library)
def test_only_experiments_read_flags_or_print(path):
    assert not [name for name in imports(path) if name.split(".")[0] == "absl"]
    for node in nodes(path):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno}"


def test_modules_import_in_no_circle():
    graph = {}
    for path in below_the_roof:
        module = module_of(path)
        graph.setdefault(module, set()).update(set(own_modules(path)) - {module})
    while graph:
        leaves = {module for module, needs in graph.items() if not needs & set(graph)}
        assert leaves, f"these import one another: {sorted(graph)}"
        graph = {module: graph[module] for module in graph.keys() - leaves}


def python(code):
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_importing_the_library_warns_nothing_loads_jax_alone_and_starts_no_backend():
    python(
        "import sys, jax\n"
        "before = set(sys.modules)\n"
        "import bns_jax\n"
        "added = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "assert added - set(sys.stdlib_module_names) <= {'bns_jax', 'jax'}, added\n"
        "assert not {'flax', 'optax', 'diffrax', 'orbax'} & set(sys.modules)\n"
        "jax.config.update('jax_platforms', 'none_such')\n"
        "bns_jax.solvers.ddim(4, bns_jax.schedulers.vp())"
    )


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = bns_jax.nonsense
    assert {"sample", "ground_truth", "distill"} <= set(dir(bns_jax))


LEADING = {
    "sample": ["params", "vf", "x0", "*args"],
    "sample_path": ["params", "vf", "x0", "*args"],
    "from_solver": ["algorithm", "nfe"],
    "from_updates": ["times", "c", "d"],
    "num_params": ["nfe"],
    "ns.validate": ["params"],
    "schedulers.cond_ot": [],
    "schedulers.cosine": [],
    "schedulers.vp": ["beta_min=0.1", "beta_max=20.0"],
    "schedulers.ve": ["sigma_max=80.0"],
    "schedulers.from_alphas_cumprod": ["alphas_cumprod"],
    "schedulers.shifted": ["shift"],
    "velocity.from_epsilon": ["fn", "scheduler"],
    "velocity.from_data": ["fn", "scheduler"],
    "velocity.from_v": ["fn", "scheduler"],
    "velocity.from_denoiser": ["fn"],
    "velocity.guided": ["cond", "uncond", "scale"],
    "scale_time.between": ["source", "target"],
    "scale_time.under": ["algorithm", "scale_time"],
    "scale_time.precondition": ["scheduler", "sigma_0"],
    "solvers.euler": ["nfe"],
    "solvers.midpoint": ["nfe"],
    "solvers.heun": ["nfe"],
    "solvers.rk4": ["nfe"],
    "solvers.adams_bashforth": ["nfe", "order"],
    "solvers.ddim": ["nfe", "scheduler"],
    "solvers.dpm_solver": ["nfe", "scheduler", "order"],
    "solvers.dpm_solver_pp": ["nfe", "scheduler", "order"],
    "solvers.deis": ["nfe", "scheduler", "order"],
    "solvers.unipc": ["nfe", "scheduler", "order"],
    "solvers.ipndm": ["nfe", "scheduler", "order"],
    "solvers.edm": ["nfe", "scheduler"],
    "families.bns": ["init"],
    "families.bst": ["base", "nfe"],
    "distill.bespoke_loss": ["base"],
    "families.constrained": ["family", "degree"],
    "families.preconditioned": ["family", "scheduler", "sigma_0"],
    "ground_truth.pairs": ["vf", "x0", "*args"],
    "distill.fit": ["family", "vf", "train", "validation"],
    "distill.adam": ["learning_rate", "schedule"],
    "distill.with_optax": ["tx"],
}
"""How each public function begins; defaults where the contract names them."""

KEYWORDS = {
    "families.bns": {"free_start"},
    "distill.bespoke_loss": {"lipschitz"},
    "ground_truth.pairs": {"rtol", "atol", "save_at", "chunk", "directory"},
    "distill.fit": {
        "optimizer",
        "objective",
        "metric",
        "seed",
        "checkpoint",
        "report",
    },
} | {name: {"grid"} for name in LEADING if name.startswith("solvers.")}

FIELDS = {
    "NSParams": ["times", "a", "b"],
    "families.Family": ["theta", "to_params"],
    "families.BNSTheta": ["times", "a", "b"],
    "families.BSTTheta": ["steps", "rates", "scales", "slopes"],
}


def look_up(name):
    found = bns_jax
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", list(LEADING))
def test_the_public_contract_is_kept(name):
    parameters = list(inspect.signature(look_up(name)).parameters.values())
    for parameter, expected in zip(parameters, LEADING[name], strict=False):
        stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        got = stars + parameter.name
        if "=" in expected:
            got += f"={parameter.default}"
        assert got == expected
    assert len(parameters) >= len(LEADING[name])


@pytest.mark.parametrize("name", list(KEYWORDS))
def test_options_are_keywords(name):
    parameters = inspect.signature(look_up(name)).parameters
    assert KEYWORDS[name] <= set(parameters)
    if name.startswith("solvers."):
        assert parameters["grid"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("name", list(FIELDS))
def test_public_tuples_have_their_fields(name):
    assert list(look_up(name)._fields) == FIELDS[name]


def test_the_package_is_marked_as_typed():
    assert (ROOT / "bns_jax" / "py.typed").exists()
