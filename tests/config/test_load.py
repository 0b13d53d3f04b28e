"""Run files: bases, overrides, unknown keys, and a round trip through the effective YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabiomed.config import ModelConfig, RunConfig, load_config, shipped, to_yaml
from megabiomed.config.kinds import kind_of
from megabiomed.config.yaml_text import read_yaml
from megabiomed.ground.errors import ConfigError

RUN = "name: t\nmodel: tiny\ndata: {seq_length: 64, train: [{path: a}, {path: b, weight: 2}]}\ntrain: {steps: 3}\n"


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(RUN)
    return file


def test_model_base_and_dotted_overrides(run_file: Path) -> None:
    overrides = ["model.num_hidden_layers=6", "optimizer.lr=3e-4", "data.train.1.weight=5", "model.init_from=/x/y"]
    config = load_config(run_file, overrides)
    assert (config.model.hidden_size, config.model.num_hidden_layers) == (128, 6)
    assert config.optimizer.lr == 3e-4
    assert config.data.train[1].weight == 5
    assert str(config.model.init_from) == "/x/y"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rate=1", "unknown key 'optimizer.learning_rate'"),
        ("paralel.zero_stage=1", "did you mean 'parallel'"),
        ("data.train.0.wieght=1", "did you mean 'data.train.0.weight'"),
        ("parallel.zero_stage=4", "parallel.zero_stage"),
        ("eval.every=10", "nothing to evaluate"),
        ("eval.tasks=[{name: a, path: x}, {name: a, path: y}]", "two of eval.tasks are called a"),
        ("train.epochs=1", "exactly one of train.steps and train.epochs"),
        ("model.hidden_size=130", "not divisible"),
        ("parallel.zero_stage=1.0", "zero_stage 1.0 is no whole number"),
        ("parallel.zero_stage=true", "zero_stage True is no whole number"),
        ("optimizer.weight_decay=1e-400", "too small a number"),
        ("train.hang_start_timeout_s=1e300", "less than or equal to"),
        ("run_dir=''", "run_dir '' is empty"),
        ("run_dir=s3://bucket/run", "is an address"),
        ("run_dir=~/runs", "is expanded by shells alone"),
        ("data.validation=$DATA/v", "is expanded by shells alone"),
        ("data.validation=${DATA}/v", "is expanded by shells alone"),
        ('run_dir="a\\0b"', "holds a zero byte"),
        ("model.num_key_value_heads=3", "not a multiple"),
        ("name=../x", "name"),
        ("nonsense", "expected section.key=value"),
        ("data.train.7.weight=1", "is not an entry of the list"),
        ("train.steps.x=1", "which is a value"),
        ("model=tinny", "did you mean 'tiny'"),
    ],
)
def test_bad_input_is_one_clear_error(run_file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(run_file, [override])


def test_the_effective_config_reads_back_equal(run_file: Path, tmp_path: Path) -> None:
    config = load_config(run_file)
    stored = tmp_path / "effective.yaml"
    stored.write_text(to_yaml(config))
    assert load_config(stored) == config


@pytest.mark.parametrize("name", shipped.names("runs"))
def test_every_shipped_run_is_valid(name: str) -> None:
    kind = kind_of(read_yaml(shipped.find("runs", name).read_text(), name))
    assert load_config(name, None, kind.config).name


def test_published_hyperparameters_of_the_paper() -> None:
    config = load_config("biomedgpt-lm-7b")
    assert (config.train.epochs, config.data.global_batch_size, config.data.seq_length) == (5, 192, 2048)
    assert (config.optimizer.lr, config.train.precision) == (2e-5, "bf16")
    assert (config.model.hidden_size, config.model.num_hidden_layers, config.model.vocab_size) == (4096, 32, 32000)


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("name: [a\nb: c")
    with pytest.raises(ConfigError, match="line 2"):
        load_config(file)


def test_a_whole_number_beyond_63_bits_is_refused_and_models_stay_models() -> None:
    with pytest.raises(ConfigError, match=r"data: seq_length is a whole number of 70 bits"):
        load_config("demo", [f"data.seq_length={2**69}"])
    assert isinstance(load_config("demo").model, ModelConfig)
    assert isinstance(RunConfig.model_validate(load_config("demo").model_dump()).model, ModelConfig)
