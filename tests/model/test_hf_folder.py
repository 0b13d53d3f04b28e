"""Hugging Face folders are read and written bit-exactly, and what cannot be computed is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from megabiomed.checkpoint.locate import locate
from megabiomed.checkpoint.logical import Box
from megabiomed.checkpoint.uses import MODEL
from megabiomed.config.models import ModelConfig
from megabiomed.ground.errors import CheckpointError, FileError
from megabiomed.ground.hashes import FileHashes
from megabiomed.model.as_transformers import as_transformers
from megabiomed.model.certificate import certify
from megabiomed.model.fresh import SeededInit
from megabiomed.model.frozen import Described, hash_of
from megabiomed.model.hf_config import model_config_from_hf
from megabiomed.model.hf_export import export_hf
from megabiomed.model.hf_files import weight_files
from megabiomed.model.hf_folder import HuggingFaceSource, check_architecture
from megabiomed.model.registry import architecture_of

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def config(kv_heads: int = 2, tied: bool = False) -> ModelConfig:
    return ModelConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=64,
        rope_theta=5000.0,
        rms_norm_eps=1e-6,
        tie_word_embeddings=tied,
    )


def transformers_model(mine: ModelConfig, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    values = mine.model_dump(exclude={"init_from", "rope_theta"})
    rope = {"rope_theta": mine.rope_theta, "rope_type": "default"}
    return LlamaForCausalLM(LlamaConfig(**{**values, "rope_parameters": rope, **changes}))


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(("dtype", "shard"), [("fp32", "5GB"), ("bf16", "20KB")])
def test_what_transformers_saves_is_read_bit_exactly(tmp_path: Path, kv_heads: int, dtype: str, shard: str) -> None:
    model = transformers_model(config(kv_heads)).to(DTYPES[dtype])
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "20KB")
    assert model_config_from_hf(tmp_path) == config(kv_heads)
    check_architecture(tmp_path, config(kv_heads))
    source, right = HuggingFaceSource(tmp_path), model.state_dict()
    assert set(right) == set(architecture_of(config(kv_heads)).shapes)
    for name, shape in architecture_of(config(kv_heads)).shapes.items():
        found = source.read(Box.whole(name, shape))
        assert found.dtype == torch.float32
        assert torch.equal(found, right[name].float())
        half = Box(name, shape, (shape[0] // 2, *(3,) * (len(shape) - 1)), (shape[0] // 2, *(7,) * (len(shape) - 1)))
        assert torch.equal(source.read(half), found[half.slices_in(Box.whole(name, shape))])
        assert not source.read(half, "exp_avg").any()


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(("dtype", "limit"), [("fp32", 5_000_000_000), ("bf16", 20_000), ("fp16", 1)])
def test_transformers_computes_the_same_from_an_exported_folder(
    tmp_path: Path, kv_heads: int, dtype: Any, limit: int
) -> None:
    transformers_model(config(kv_heads)).to(DTYPES[dtype]).save_pretrained(tmp_path / "there")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "there")
    source = HuggingFaceSource(tmp_path / "there")
    export_hf(source, config(kv_heads), tmp_path / "back", dtype, max_shard_bytes=limit)
    again = LlamaForCausalLM.from_pretrained(tmp_path / "back")
    assert again.dtype == DTYPES[dtype]
    assert {k: v.tolist() for k, v in again.state_dict().items()} == {
        k: v.tolist() for k, v in model.state_dict().items()
    }
    tokens = torch.arange(40).view(2, 20)
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)
    assert model_config_from_hf(tmp_path / "back") == config(kv_heads)
    files = {path.name: path.stat().st_size for path in (tmp_path / "back").glob("*.safetensors")}
    assert len(files) == {5_000_000_000: 1, 1: len(architecture_of(config()).shapes)}.get(limit, len(files))
    assert limit == 1 or max(files.values()) < limit + 4000


def test_an_export_never_overwrites_and_never_stays_half_done(tmp_path: Path) -> None:
    class Failing(SeededInit):
        def read(self, box: Box, kind: str = "param") -> torch.Tensor:
            if box.name == "lm_head.weight":
                raise CheckpointError("no head")
            return super().read(box, kind)

    with pytest.raises(CheckpointError, match="no head"):
        export_hf(Failing(config(), 0), config(), tmp_path / "out")
    assert not list(tmp_path.iterdir())
    export_hf(SeededInit(config(), 0), config(), tmp_path / "out")
    with pytest.raises(CheckpointError, match="already exists"):
        export_hf(SeededInit(config(), 0), config(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def tied_folder(folder: Path, stored: str) -> None:
    """What says `tie_word_embeddings` and stores the embedding, the head, both with equal values, or both with others."""
    transformers_model(config(tied=True)).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    assert HEAD not in tensors
    if stored != "embedding":
        tensors[HEAD] = tensors[EMBEDDING] + (stored == "others")
    if stored == "head":
        del tensors[EMBEDDING]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("stored", ["embedding", "head", "equal", "others"])
def test_a_tied_folder_is_read_as_transformers_reads_it(stored: str, tmp_path: Path) -> None:
    tied_folder(tmp_path, stored)
    theirs, model = LlamaForCausalLM.from_pretrained(tmp_path), model_config_from_hf(tmp_path)
    assert model == config(tied=stored != "others")
    assert model.tie_word_embeddings == (theirs.lm_head.weight is theirs.model.embed_tokens.weight)
    check_architecture(tmp_path, model)
    source = HuggingFaceSource(tmp_path)
    assert source.tied == model.tie_word_embeddings
    for name in (HEAD, EMBEDDING):
        assert torch.equal(source.read(Box.whole(name, (61, 32))), theirs.state_dict()[name]), name
    found = certify(tmp_path, source, model, "import", "there")
    found.check()
    assert (found.weights_max_diff, found.loaded_max_diff) == (0.0, 0.0)


def test_a_tied_folder_may_be_trained_apart_and_no_other_as_one(tmp_path: Path, folder: Path) -> None:
    tied_folder(tmp_path, "equal")
    check_architecture(tmp_path, config(tied=False))
    with pytest.raises(CheckpointError, match="got tie_word_embeddings False, expected True"):
        check_architecture(folder, config(tied=True))


def test_a_tied_model_is_exported_with_one_matrix(tmp_path: Path) -> None:
    model = config(tied=True)
    folder = export_hf(SeededInit(model, 0), model, tmp_path / "out", "fp32")
    assert HEAD not in load_file(folder / "model.safetensors")
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
    loaded, tokens = AutoModelForCausalLM.from_pretrained(folder), torch.arange(40).view(2, 20)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    found = certify(folder, SeededInit(model, 0), model, "export", "here")
    found.check()
    with torch.no_grad():
        theirs = as_transformers(model, SeededInit(model, 0), torch.float32, 1, 2)(tokens).logits
        assert torch.equal(loaded(tokens).logits, theirs)
    assert model_config_from_hf(folder) == model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export_hf(SeededInit(config(), 0), config(), tmp_path / "hf", "fp32")


def rewrite(folder: Path, **changes: Any) -> None:
    values = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value != "drop"}))


def test_a_snapshot_of_a_hub_cache_is_a_folder_like_any_other(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "main"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        file.rename(blobs / f"{file.name}-hash")
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}-hash")
    model = config()
    assert model_config_from_hf(snapshot) == model
    check_architecture(snapshot, model)
    certify(snapshot, HuggingFaceSource(snapshot), model, "import", "here").check()
    with pytest.raises(CheckpointError, match="give one of its folders snapshots/<commit>"):
        locate(snapshot.parent.parent).expect(MODEL)
    for name in ("config.json", "model.safetensors"):
        (blobs / f"{name}-hash").rename(tmp_path / name)
        (blobs / f"{name}-hash").symlink_to(tmp_path / name)
        with pytest.raises(FileError, match="outside of itself"):
            HuggingFaceSource(snapshot)
        (tmp_path / name).replace(blobs / f"{name}-hash")


def test_a_missing_head_that_is_not_tied_is_an_error(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"has no tensor lm_head\.weight"):
        check_architecture(folder, config())


def test_tensors_of_another_shape_or_name_are_found_from_headers(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, folder / "model.safetensors")
    check_architecture(folder, config())
    save_file({**tensors, "model.layers.0.self_attn.q_proj.bias": torch.ones(32)}, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"a llama model does not have: got model\.layers\.0\.self_attn\.q_proj\.bias"
    ):
        check_architecture(folder, config())
    save_file({**tensors, "model.norm.weight": torch.ones(33)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight of .* does not fit its config\.json"):
        check_architecture(folder, config())
    with pytest.raises(CheckpointError, match=r"got F32 \(33,\)"):
        HuggingFaceSource(folder).read(Box.whole("model.norm.weight", (32,)))


def test_another_model_is_described_key_by_key(folder: Path) -> None:
    other = config().model_copy(update={"num_hidden_layers": 3, "rope_theta": 10000.0})
    with pytest.raises(CheckpointError, match=r"got num_hidden_layers 2, rope_theta 5000.0, expected 3, 10000.0"):
        check_architecture(folder, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma"}, "got model_type .gemma., expected .llama."),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "scales RoPE"),
        ({"attention_bias": True}, "not computed here: got attention_bias True"),
        ({"hidden_act": "gelu"}, "got hidden_act gelu, expected silu"),
        ({"quantization_config": {"bits": 4}}, "got quantization_config"),
        ({"num_attention_heads": 5}, "describes no usable model"),
        ({"hidden_size": "drop"}, "lacks hidden_size"),
        (
            {"hidden_size": "32"},
            "no usable model: key 'hidden_size': got '32', expected Input should be a valid integer",
        ),
        ({"num_attention_heads": 0}, "no usable model: key 'num_attention_heads': got 0"),
        ({"num_key_value_heads": [2]}, "no usable model: key 'num_key_value_heads'"),
        ({"rope_theta": "5000"}, "no usable model: key 'rope_theta'"),
        ({"rope_scaling": "linear"}, "got 'linear' for the scaling of RoPE, expected a mapping"),
        ({"head_dim": 7}, "head size 7 is odd"),
    ],
)
def test_what_is_not_computed_here_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        model_config_from_hf(folder)


def test_absent_keys_mean_what_transformers_takes_them_for(folder: Path) -> None:
    rewrite(folder, rms_norm_eps="drop", num_key_value_heads="drop", max_position_embeddings="drop", rope_theta="drop")
    theirs, mine = LlamaConfig.from_pretrained(folder), model_config_from_hf(folder)
    assert mine.rope_theta == theirs.rope_parameters["rope_theta"] == 10000.0
    for key in ("rms_norm_eps", "num_key_value_heads", "max_position_embeddings"):
        assert getattr(mine, key) == getattr(theirs, key)


def pickled(folder: Path, shards: int, **options: Any) -> Path:
    """The folder with its weights as `torch.save` writes them, in one file or several with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin", **options)
        return folder
    files = {name: f"pytorch_model-{number % shards}.bin" for number, name in enumerate(tensors)}
    for file in set(files.values()):
        torch.save({name: tensors[name] for name in tensors if files[name] == file}, folder / file, **options)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder


def test_pickled_weights_are_read_like_safetensors(tmp_path: Path) -> None:
    shapes = architecture_of(config()).shapes
    for number, (shards, zipped) in enumerate([(1, True), (1, False), (3, True), (3, False)]):
        folder = export_hf(SeededInit(config(), 0), config(), tmp_path / f"{number}", "bf16")
        right = HuggingFaceSource(folder)
        values = {name: right.read(Box.whole(name, shape)) for name, shape in shapes.items()}
        found = locate(pickled(folder, shards, _use_new_zipfile_serialization=zipped))
        assert found.expect(MODEL).is_hugging_face
        check_architecture(folder, config())
        source = HuggingFaceSource(folder)
        assert source.describe("model.norm.weight") == ("BF16", (32,))
        for name, shape in shapes.items():
            assert torch.equal(source.read(Box.whole(name, shape)), values[name])
            inner = len(shape) - 1
            half = Box(name, shape, (shape[0] // 2, *(3,) * inner), (shape[0] // 2, *(7,) * inner))
            assert torch.equal(source.read(half), values[name][half.slices_in(Box.whole(name, shape))])
        certificate = certify(folder, source, config(), "import", "there")
        certificate.check()
        assert (certificate.stored_as, certificate.loaded_max_diff) == ("bfloat16", 0.0)


def test_pickled_weights_are_part_of_what_recognises_a_folder(folder: Path) -> None:
    """Hashes of frozen models and the identity of an evaluated one change with the weights that are loaded."""
    described, hashes = Described("huggingface", folder), FileHashes(None)
    before = hash_of(described, 0, hashes)
    torch.save({"other": torch.ones(3)}, folder / "pytorch_model.bin")
    assert hash_of(described, 0, hashes) == before  # safetensors count
    assert "other" not in HuggingFaceSource(folder).names()
    for shards, file in ((1, "pytorch_model.bin"), (2, "pytorch_model-1.bin")):
        export = export_hf(SeededInit(config(), 0), config(), folder / f"{shards}", "fp32")
        described = Described("huggingface", pickled(export, shards))
        assert weight_files(export)[-1] == export / file
        before = hash_of(described, 0, hashes)
        torch.save(
            {name: value + 1 for name, value in torch.load(export / file, weights_only=True).items()}, export / file
        )
        assert hash_of(described, 0, hashes) != before


def test_what_a_pickle_may_not_hold_is_refused_with_the_reason(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        HuggingFaceSource(folder)
    file = folder / "pytorch_model.bin"
    for held, reason in (
        ({"a": Path("x")}, "without executing it: got Unsupported global: GLOBAL pathlib"),
        ([torch.ones(2)], "holds no tensors by name: got list"),
        ({"a": torch.ones(2), "step": 3}, "holds more than weights: got 'step': int"),
        ({"a": torch.eye(2).to_sparse()}, "holds more than weights: got 'a': torch.sparse_coo"),
    ):
        torch.save(held, file)
        allowed = torch.serialization.safe_globals([type(file)])  # as megatron-core does when it is imported
        with allowed, pytest.raises(CheckpointError, match=reason):
            HuggingFaceSource(folder)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("archive/data.pkl", bytes(1 << 20))
    with pytest.raises(CheckpointError, match=r"has packed members: got archive/data\.pkl"):
        HuggingFaceSource(folder)
    for damaged in (b"", b"\x80\x02", b"PK\x03\x04" + bytes(40)):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"is cut off|cannot be read without executing it"):
            HuggingFaceSource(folder)
    torch.save({"a": torch.ones(64)}, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="is cut off: got unexpected EOF, expected 9 more bytes"):
        HuggingFaceSource(folder)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(FileError, match=r"git-lfs"):
        HuggingFaceSource(folder)
    file.unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "pytorch_model-1.bin"}}))
    with pytest.raises(CheckpointError, match=r"pytorch_model-1\.bin is not there"):
        HuggingFaceSource(folder).describe("a")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "../elsewhere.bin"}}))
    with pytest.raises(FileError, match="outside of itself"):
        HuggingFaceSource(folder)


def test_an_index_cannot_name_files_outside_of_the_folder(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileError, match="outside of itself"):
        HuggingFaceSource(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = export_hf(SeededInit(config(), 0), config(), tmp_path / "hf", max_shard_bytes=20_000)
    lost = sorted(folder.glob("model-00002-*"))[0]
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"{lost.name} is no readable safetensors file"):
        check_architecture(folder, config())
