"""A configuration is one value: from Python, from flags and from a flag file."""

import dataclasses
import subprocess
import sys

import pytest
from absl import flags

from experiments import compare, digits, distill_checkpoint
from experiments.ablations import __main__ as ablations
from experiments.bench_distill import __main__ as bench_distill
from experiments.run import cli
from experiments.run.config import Hosts, options, text
from experiments.taxonomy import __main__ as taxonomy
from experiments.tools import mutants, pod, soak

CONFIGS = [
    digits.DigitsConfig,
    distill_checkpoint.CheckpointConfig,
    compare.CompareConfig,
    ablations.AblationsConfig,
    bench_distill.BenchConfig,
    taxonomy.TaxonomyConfig,
    pod.PodConfig,
    soak.SoakConfig,
    mutants.MutantsConfig,
]
OTHERS = {
    "nfe": (2, 10),
    "labels": (7, 3),
    "config": '{"width": 128}',
    "batch": 5,
    "train_pairs": 77,
}


def another(name, default, choices):
    """A value that an option can take besides its default."""
    if name in OTHERS and isinstance(default, type(OTHERS[name])):
        return OTHERS[name]
    if choices:
        last = choices[-1]
        return (last,) if isinstance(default, tuple) else last
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 3
    if isinstance(default, float):
        return default / 3 + 0.1
    if isinstance(default, tuple):
        return ("one", "two@log_snr")
    return 4 if name in ("num_processes", "process_id") else "something"


def changed_everywhere(config):
    fields = {field.name: field.default for field in dataclasses.fields(config)}
    return config(
        **{
            name: another(name, fields[name], option.choices)
            for name, option in options(config).items()
        }
    )


def parsed(config, *arguments):
    values = cli.define(config, flags.FlagValues())
    values(["program", *arguments])
    return cli.read(config, values)


@pytest.mark.parametrize("config", CONFIGS)
class TestEveryProgram:
    def test_without_a_flag_it_is_the_default(self, config):
        assert parsed(config) == config()

    def test_flags_say_the_same_as_python(self, config):
        value = changed_everywhere(config)
        arguments = [
            f"--{name}={text(getattr(value, name))}" for name in options(config)
        ]
        assert parsed(config, *arguments) == value != config()

    def test_what_shapes_a_run_is_in_its_flag_file(self, config, tmp_path):
        value = changed_everywhere(config)
        lines = [f"--{name}={of}" for name, of in value.shaping().items()]
        (tmp_path / "run.flags").write_text("\n".join(lines))
        again = parsed(config, f"--flagfile={tmp_path}/run.flags")
        assert again.shaping() == value.shaping()
        for name, option in options(config).items():
            assert option.shapes == (name in value.shaping())
            assert getattr(again, name) == getattr(
                value if option.shapes else config(), name
            )

    def test_what_may_change_shapes_a_run(self, config):
        assert config().free() <= config().shaping().keys()

    def test_values_that_cannot_be_are_named_with_their_flag(self, config):
        for name, option in options(config).items():
            wrong = []
            if option.least is not None:
                wrong.append(option.least - 1)
            if option.positive:
                wrong += [0.0, -1.0, float("nan")]
            if option.choices:
                one = "none of them"
                is_list = isinstance(getattr(config(), name), tuple)
                wrong.append((one,) if is_list else one)
            for value in wrong:
                with pytest.raises(ValueError, match=f"--{name} must be .*, got "):
                    config(**{name: value})

    def test_devices_and_processes_shape_nothing(self, config):
        assert not config().shaping().keys() & options(Hosts).keys()

    def test_every_option_has_a_sentence(self, config):
        assert all(option.help.endswith(".") for option in options(config).values())


def test_the_flags_of_a_digits_run_are_those_of_earlier_ones():
    """What version 0.4 wrote; a workdir of it is continued."""
    earlier = (
        "model weights guidance nfe solvers init optimizer iterations batch "
        "evaluate_every learning_rate schedule sigma_0 train_pairs validation_pairs "
        "test_pairs rtol atol seed"
    )
    config = digits.DigitsConfig()
    shaping = config.shaping(digits.JobConfig)
    assert shaping.keys() == {*earlier.split(), "chunk"}
    assert shaping["solvers"] == "common" and shaping["nfe"] == "4,6,8"
    assert shaping["rtol"] == "1e-05" and shaping["weights"] == ""
    assert config.free() == {"nfe", "solvers"}
    assert config.shaping(digits.PretrainConfig).keys() == {
        "pretrain_iterations",
        "pretrain_evaluate_every",
        "seed",
    }


def test_numbers_of_evaluations_ascend_each_once():
    assert digits.DigitsConfig(nfe=(8, 4, 8)).nfe == (4, 8)
    for nfe in ((), (0, 4), (65,)):
        with pytest.raises(ValueError, match="--nfe must be integers from 1 to 64"):
            digits.DigitsConfig(nfe=nfe)


def test_a_program_starts_without_jax():
    """--help, and a wrong flag, are answered at once."""
    code = "import experiments.digits, sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
