"""Modalities and encoders are known by registration alone: no other file names one, counts one, or guesses what one costs."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import megabiomed
from megabiomed.align.memory import lora_parameters
from megabiomed.config.align import AlignConfig, AlignRunConfig
from megabiomed.config.base import parse
from megabiomed.config.modalities import MODALITIES, EncoderConfig, EncoderKind, Part, encoders_of
from megabiomed.encoders.adaptors import build_adaptor
from megabiomed.encoders.build_encoders import build_encoders
from megabiomed.encoders.encoder import Encoder, encoder_of, shipped_encoders
from megabiomed.encoders.gin import GAT, GinEncoder
from megabiomed.encoders.gin.config import GinConfig
from megabiomed.encoders.lora import is_lora
from megabiomed.encoders.modality import modality_of
from megabiomed.encoders.schedule import EncoderItem, costs
from megabiomed.ground.errors import ConfigError, DataError

PACKAGE = Path(megabiomed.__file__).parent
WORDS = {word for name in ("molecule", "protein") for word in (name, f"{name}s", f"{name}_adaptor")}
OWN = (
    "encoders/gin/", "encoders/esm2/", "config/modalities.py", "samples/multimodal/records_json.py",
    "samples/multimodal/records_raw.py", "samples/multimodal/generate.py", "samples/multimodal/prompts.py",
)  # fmt: skip
"""Folders and files of single modalities, the table of their names, readers and writers of published layouts, templates."""
ALLOWED = {
    "config/align.py": {"molecule", "protein"},  # keys that run files had before `align.modalities`
    "samples/multimodal/store.py": {"molecule", "protein"},  # stores of format 1 do not name theirs
    "cli.py": {"molecule", "protein"},  # options of `chat`
}
ROOMS = (
    "encoders",
    "samples",
    "align",
    "runs",
    "engine",
    "evaluate",
    "config",
    "data",
    "checkpoint",
    "doctor",
    "cli.py",
)


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Files of the rooms that know modalities, besides those of single ones."""
    for room in ROOMS:
        path = PACKAGE / room
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            name = file.relative_to(PACKAGE).as_posix()
            if not name.startswith(OWN):
                yield name, ast.parse(file.read_text())


def named(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) of every text and attribute that names a modality, and every import from the folder of one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in WORDS:
            yield node.lineno, node.value
        elif isinstance(node, ast.Attribute) and node.attr in WORDS:
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith(
            ("megabiomed.encoders.gin", "megabiomed.encoders.esm2")
        ):
            yield node.lineno, str(node.module)


def test_no_other_file_names_a_modality_or_an_encoder() -> None:
    found = [
        f"{name}:{line}: {word}"
        for name, tree in sources() for line, word in named(tree) if word not in ALLOWED.get(name, ())
    ]  # fmt: skip
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "text",
    ["x == 'molecule'", "config.protein.cache", "def f():\n    from megabiomed.encoders.esm2.model import Esm2"],
)
def test_a_name_is_seen_wherever_it_stands(text: str) -> None:
    assert list(named(ast.parse(text)))


def align(**values: Any) -> AlignConfig:
    sizes = {"num_layers": 2, "hidden_size": 16}
    stages = [{"name": "s", "steps": 1, **values.pop("stage", {})}]
    held = {"molecule": sizes, "protein": {**sizes, "num_attention_heads": 2}, "stages": stages}
    return AlignConfig.model_validate({**held, **values})


def item(modality: str, rows: int = 5) -> EncoderItem:
    return EncoderItem(modality, 0, 0, rows, rows, 0, 0)


@pytest.mark.parametrize("encoder", [GAT, *(encoder for _, _, encoder in shipped_encoders())])
def test_parameters_are_those_of_the_built_module(encoder: Encoder[Any]) -> None:
    config = encoder.config.model_validate({"hidden_size": 16, "num_layers": 2} | _heads(encoder))
    assert encoder.parameters(config) == sum(p.numel() for p in encoder.build(config).parameters())


def _heads(encoder: Encoder[Any]) -> dict[str, int]:
    return {"num_attention_heads": 2} if "num_attention_heads" in encoder.config.model_fields else {}


def test_low_rank_parameters_are_those_of_the_built_modules() -> None:
    config = align(stage={"molecule": "lora", "protein": "lora"})
    encoders, _ = build_encoders(config, 24, 0)
    for part in config.parts():
        names = encoders[part.name].named_parameters()
        assert lora_parameters(part) == sum(p.numel() for name, p in names if is_lora(f".{name}"))


class Priceless(GinEncoder):
    price: Any = None

    def flops(self, config: GinConfig, rows: int) -> float:
        found: float = self.price
        return found


PRICELESS = Priceless()


@pytest.mark.parametrize("price", [None, 0.0, -1.0, math.nan, math.inf])
def test_a_cost_that_cannot_be_one_is_an_error(price: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PRICELESS, "price", price)
    config = align(molecule={"kind": f"{__name__}:PRICELESS"})
    assert costs([item("protein")], config)
    with pytest.raises(ConfigError, match=f"PRICELESS gives no cost of 5 rows: got {price}"):
        costs([item("molecule")], config)


def test_an_item_without_encoder_has_no_cost_and_an_encoder_without_cost_cannot_be_made() -> None:
    with pytest.raises(DataError, match="an item is a cell, of which this run has no encoder"):
        costs([item("cell")], align())
    with pytest.raises(DataError, match="no encoder"):
        costs([item("protein")], align(protein=None))

    class Free(Encoder[GinConfig]):
        config = GinConfig

        def build(self, config: GinConfig) -> nn.Module:
            return nn.Module()

    with pytest.raises(TypeError, match="flops"):
        Free()  # type: ignore[abstract]


HALF = EncoderKind()


def test_what_is_no_encoder_or_modality_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="is not a molecule encoder"):
        align(molecule={"kind": "math:pi"})
    with pytest.raises(ConfigError, match="did you mean 'gat'"):
        align(molecule={"kind": "gats"})
    with pytest.raises(ConfigError, match=r"cannot be imported.*PYTHONPATH"):
        align(molecule={"kind": "no_such_package:ENCODER"})
    with pytest.raises(ConfigError, match="unknown modality"):
        align(modalities={"cell": {"kind": "cell"}})
    with pytest.raises(ConfigError, match=r"is another modality.*whose name is 'protein'"):
        align(modalities={"cell": {"kind": "protein"}})
    half = Part("molecule", "molecule", GinConfig(kind=f"{__name__}:HALF"), align().molecule_adaptor)
    with pytest.raises(ConfigError, match="is not an encoder"):
        encoder_of(half)
    assert modality_of("molecule") is MODALITIES.find("molecule")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"molecule": {"hiden_size": 3}}, "'align.molecule.hiden_size': did you mean 'align.molecule.hidden_size'"),
        ({"protein": {"num_layers": 0}}, "align.protein.num_layers: Input should be greater than 0"),
        ({"protein": {"num_layers": "2"}}, "align.protein.num_layers: Input should be a valid integer"),
        ({"protein": {"lora": {"rank": 3}}}, "unknown key 'align.protein.lora.rank'"),
        ({"stages": [{"name": "s", "steps": 1, "protien": "full"}]}, "did you mean 'align.stages.0.protein'"),
        ({"modalities": {"cell": {"encoder": {}}}}, "missing key 'align.modalities.cell.kind'"),
        ({"modalities": {"name": {"kind": "protein"}}}, "is a key of align or of its stages"),
        ({"molecule": {"kind": "gat", "init_from": "x"}}, "encoder gat reads no weights"),
        ({"molecule": {"kind": "gat"}, "stages": [{"name": "s", "steps": 1, "molecule": "lora"}]}, "no matrices for it"),
        ({"molecule": None, "stages": [{"name": "s", "steps": 1, "molecule": "full"}]}, "align.molecule is null"),
        ({"protein": {"cache": "c", "placement": "zero3"}}, "would not join the gathers"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named_with_its_place(values: dict[str, Any], said: str) -> None:
    held = {"name": "a", "align": {"stages": [{"name": "s", "steps": 1}], **values}}
    with pytest.raises(ConfigError) as error:
        parse(AlignRunConfig, held, "run.yaml")
    assert said in str(error.value)


class CountConfig(EncoderConfig):
    """An encoder without weights of its own."""

    kind: str = "count"
    hidden_size: int = 8
    depth: int = 1


class Counter(Encoder[CountConfig]):
    config = CountConfig

    def build(self, config: CountConfig) -> nn.Module:
        return nn.Linear(1, config.hidden_size)

    def flops(self, config: CountConfig, rows: int) -> float:
        return float(rows)


COUNT = Counter()


def test_a_configuration_with_an_encoder_from_outside_reads_back_as_it_was_written() -> None:
    values = {
        "name": "a",
        "align": {"molecule": {"kind": f"{__name__}:COUNT", "depth": 3}, "stages": [{"name": "s", "steps": 1}]},
    }
    config = parse(AlignRunConfig, values, "run.yaml")
    assert isinstance(config.align.molecule, CountConfig)
    assert config.align.molecule.depth == 3
    assert parse(AlignRunConfig, config.model_dump(mode="json"), "again") == config
    encoders, adaptors = build_encoders(config.align, 24, 0)
    assert encoders["molecule"].weight.shape == (8, 1)
    wanted = build_adaptor(config.align.molecule_adaptor, 8, 24).state_dict()
    assert {name: value.shape for name, value in adaptors["molecule"].state_dict().items()} == {
        name: value.shape for name, value in wanted.items()
    }


def test_the_weights_of_a_seed_are_those_of_older_versions() -> None:
    """Encoders draw their numbers in a fixed order: that of their modalities, all before the adaptors."""
    encoders, adaptors = build_encoders(align(), 24, 7)
    torch.manual_seed(7)
    for part in align().parts():
        expected = encoder_of(part).build(part.encoder).state_dict()
        for name, value in encoders[part.name].state_dict().items():
            assert torch.equal(value, expected[name])
    torch.manual_seed(8)
    for part in align().parts():
        expected = build_adaptor(part.adaptor, part.encoder.hidden_size, 24).state_dict()
        for name, value in adaptors[part.name].state_dict().items():
            assert torch.equal(value, expected[name])


def test_short_names_of_encoders_belong_to_their_modality() -> None:
    registry = encoders_of("cell", {"count": f"{__name__}:COUNT"})
    assert registry.find("count") is COUNT
    with pytest.raises(ConfigError, match="unknown cell encoder: got 'gin'"):
        registry.find("gin")
