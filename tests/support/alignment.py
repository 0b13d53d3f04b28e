"""A tiny alignment problem: fixed windows with molecules and proteins, and one process as the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from megabiomed.config import RunConfig
from megabiomed.config.align import AlignConfig
from megabiomed.data.packing import IGNORE_INDEX, Inserts, MicroBatch
from megabiomed.encoders.esm2.alphabet import encode
from megabiomed.encoders.gin.featurise import featurise
from megabiomed.encoders.schedule import EncoderItem
from megabiomed.kernels.documents import Documents
from megabiomed.samples.multimodal.batch import AlignBatch, empty_ids
from support.lora import LORA
from support.parity import MODEL, OPTIMIZER

SEQ = 48
SAMPLES = 4
QUERIES = 5
SMILES = ["CCO", "c1ccccc1", "[Na+]", "CC(=O)Oc1ccccc1C(=O)O", "N"]
PROTEINS = ["MKTAYIA", "M", "ACDEFGHIKLMNPQRSTVWY", "GGSGGSLKPQ"]
CONTENTS: dict[str, list[str]] = {  # what each sample holds: molecule, protein or text
    "mixed": ["mp", "t", "p", "m"],
    "no-molecule": ["p", "pp", "t", "p"],
    "no-protein": ["m", "t", "mm", "m"],
    "text-only": ["t", "t", "t", "t"],
    "half-text": ["mp", "m", "t", "t"],
    "one-giant-protein": ["t", "t", "t", "g"],
}
_GIANT = "MKLV" * 9


def run_config(case: dict[str, Any]) -> RunConfig:
    """The run of a case."""
    return RunConfig.model_validate(
        {
            "name": "align", "seed": 7, "model": MODEL, "parallel": case.get("parallel", {}), "lora": _adapters(case),
            "data": {"seq_length": SEQ, "micro_batch_size": 1, "global_batch_size": SAMPLES},
            # Gradients of the side modules are small; Adam would blow their rounding up with a smaller eps.
            "optimizer": OPTIMIZER | {"eps": 1e-3}, "train": {"steps": 3, "precision": "fp32"},
        }
    )  # fmt: skip


def _adapters(case: dict[str, Any]) -> dict[str, Any] | None:
    return {**LORA, "dropout": case.get("lm_dropout", 0.0)} if case["stage"].get("language_model") == "lora" else None


def align_config(case: dict[str, Any]) -> AlignConfig:
    """Encoders, adaptors and the stage of a case."""
    placement, kind = case.get("placement", "replicate"), case.get("adaptor", "mlp")
    lora = {"r": 3, "alpha": 6.0, "dropout": case.get("dropout", 0.0)}
    names = ["query", "value", "fc2"]
    stage = {"name": "s", "steps": 3, "adaptor_lr": 1e-2, "encoder_lr": 1e-2, "lm_lr": 1e-2, **case["stage"]}
    return AlignConfig.model_validate(
        {
            "molecule": {"kind": case.get("molecule", "gin"), "num_layers": 2, "hidden_size": 16,
                         "placement": placement, "lora": lora},
            "protein": {"num_layers": 2, "hidden_size": 24, "num_attention_heads": 2, "placement": placement,
                        "lora": {**lora, "targets": names}, "cache": case.get("cache")},
            "molecule_adaptor": {"kind": kind, "num_queries": QUERIES},
            "protein_adaptor": {"kind": kind, "num_queries": QUERIES},
            "stages": [stage],
            "encoder_ranks": case.get("encoder_ranks"),
            "dedicated_encoder_ranks": case.get("beside", 0),
        }
    )  # fmt: skip


def global_batch(case: dict[str, Any], step: int) -> list[dict[str, Any]]:
    """Samples of one step: tokens, labels, and items with their places."""
    content, queries = case["content"], QUERIES if case.get("adaptor") == "resampler" else 0
    rng = np.random.default_rng(100 + step)
    samples = []
    for number, kinds in enumerate(CONTENTS[content]):
        tokens = rng.integers(3, MODEL["vocab_size"], SEQ)
        labels = np.where(np.arange(SEQ) >= SEQ - 6, rng.integers(3, MODEL["vocab_size"], SEQ), IGNORE_INDEX)
        items, place = [], 1
        for kind in kinds.replace("t", ""):
            pick = int(rng.integers(0, 4))
            if kind == "m":
                item, features = "molecule", featurise(SMILES[pick if pick < 3 else 4])
            else:
                item, features = (
                    "protein",
                    encode(_GIANT if kind == "g" else PROTEINS[pick] if pick != 2 else PROTEINS[3]),
                )
            rows = queries or features.rows
            items.append({"modality": item, "features": features, "at": place, "rows_out": rows})
            place += rows + 1
        samples.append({"tokens": tokens, "labels": labels, "items": items, "number": number})
    return samples


def replica_batch(samples: list[dict[str, Any]], rank: int, size: int) -> AlignBatch:
    """The part of one replica, with the items of all."""
    share = len(samples) // size
    items, features = [], {}
    for number, sample in enumerate(samples):
        for held in sample["items"]:
            features[len(items)] = held["features"]
            items.append(
                EncoderItem(
                    held["modality"], 0, len(items), held["features"].rows, held["rows_out"], number // share, number
                )
            )
    micro = [_micro(sample) for sample in samples[rank * share : (rank + 1) * share]]
    return AlignBatch(micro, empty_ids(), 0, items, lambda item: features[item.row])


def _micro(sample: dict[str, Any]) -> MicroBatch:
    places = [np.arange(held["at"], held["at"] + held["rows_out"]) for held in sample["items"]]
    where = np.concatenate([np.zeros(0, np.int64), *places]).astype(np.int64)
    index = torch.arange(SEQ, dtype=torch.int32)
    return MicroBatch(
        tokens=torch.from_numpy(sample["tokens"]), labels=torch.from_numpy(sample["labels"]),
        documents=Documents(index * 0, index * 0 + SEQ), positions=index.long(),
        num_loss_tokens=int((sample["labels"] != IGNORE_INDEX).sum()), inserts=Inserts(torch.from_numpy(where)),
    )  # fmt: skip
