"""What `make real-model` needs beside the command line: a model and general text without a download, and the final table."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import pydoc_data.topics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import DataError, FileError, UserError
from megabiomed.ground.figures import shown
from megabiomed.ground.files import new_folder, read_json, write_atomic
from megabiomed.ground.json_lines import read_objects

# Fields of Microsoft Academic Graph in the records of S2ORC. Their text is what the model is trained on, or close to it.
BIOMEDICAL = frozenset({"Medicine", "Biology", "Chemistry", "Psychology"})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m megabiomed.launch.real_model", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, work, names in (
        ("convert", convert, ("source", "output")),
        ("general", general, ("output",)),
        ("sciences", sciences, ("metadata", "output")),
        ("talk", talk, ("model", "question")),
    ):
        command = commands.add_parser(name, help=(work.__doc__ or "").splitlines()[0])
        for argument in names:
            command.add_argument(argument, type=str if argument == "question" else Path)
        command.set_defaults(work=work)
    table = commands.add_parser("table", help=(summary.__doc__ or "").splitlines()[0])
    table.add_argument("evaluations", type=Path, nargs="+")
    table.set_defaults(work=lambda evaluations: print(summary(evaluations)))
    options = vars(parser.parse_args(arguments))
    try:
        options.pop("work")(**options)
    except UserError as error:
        raise SystemExit(f"{error}") from None


def convert(source: Path, output: Path) -> None:
    """Write the one GGUF file in a folder as a Hugging Face folder, in fp32, tied as it is in the file.

    Needs the package `gguf`, with which transformers dequantises. A value of Q4_1 is one of 16 levels of its block of 32:
    the result is the quantised model exactly, and the original only nearly.

    Raises:
        DataError: the folder holds no GGUF file, or several.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    file = gguf_file(source)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    # transformers would not save what it takes for a quantised model; the values are plain fp32.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    # GGUF has it in fp32, which prints as 9.999999747378752e-06.
    model.config.rms_norm_eps = float(f"{model.config.rms_norm_eps:.6g}")
    with new_folder(output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        written = folder / "tokenizer.json"
        if pre_tokenizer(file) == "smollm":
            written.write_text(json.dumps(with_single_digits(read_json(written, dict)), ensure_ascii=False))


def gguf_file(folder: Path) -> Path:
    """The one GGUF file anywhere below a folder."""
    files = sorted(folder.rglob("*.gguf"))
    if len(files) != 1:
        got = ", ".join(file.name for file in files) or "none"
        raise DataError(
            f"{folder} does not hold one model",
            got=got,
            expected="one .gguf file",
            do="name a folder with one model in it",
        )
    return files[0]


def pre_tokenizer(file: Path) -> str:
    """The name that the file gives to the rules by which its text is cut before BPE: `smollm`, `llama-bpe`, `qwen2`."""
    from gguf import GGUFReader

    field = GGUFReader(file).get_field("tokenizer.ggml.pre")
    return str(field.contents()) if field else ""


def with_single_digits(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json whose digits stand alone, as SmolLM's do.

    transformers reads pieces and merges from GGUF and cuts the text by the rules of GPT-2, whatever rules the file names.
    No merge of SmolLM2 holds a digit, so the difference is the white space before numbers.
    """
    cut = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, tokenizer["pre_tokenizer"]],
    }
    return {**tokenizer, "pre_tokenizer": cut}


def general(output: Path) -> None:
    """Write the manual of the Python language (PSF License Version 2), which every Python carries, as text records."""
    write_records(output, ({"id": f"python-{name}", "text": text} for name, text in pydoc_data.topics.topics.items()))


def sciences(metadata: Path, output: Path) -> None:
    """Write the abstracts of S2ORC 20200705v1 (ODC-By 1.0) that name fields and none near biomedicine, as text records."""
    write_records(output, outside_biomedicine(read_objects(metadata)))


def outside_biomedicine(papers: Iterable[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """`id` and `text` of the papers with an abstract whose fields are known and not biomedical."""
    for paper in papers:
        fields = set(paper.get("mag_field_of_study") or ())
        if fields and not fields & BIOMEDICAL and paper.get("abstract"):
            yield {"id": f"s2orc-{paper['paper_id']}", "text": f"{paper['title']}\n\n{paper['abstract']}"}


def write_records(output: Path, records: Iterable[dict[str, str]]) -> None:
    """Records as gzip JSON lines, the same bytes each time."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:
        file.writelines(json.dumps(record).encode() + b"\n" for record in records)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, packed.getvalue())


def talk(model: Path, question: str) -> None:
    """Answer a question with transformers alone, greedily, by the chat template of an exported folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        ids = network.generate(**prompt, max_new_tokens=64, do_sample=False)
    answer = tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    print(f"user: {question}\nmodel: {answer}")


def summary(evaluations: list[Path]) -> str:
    """One line a folder of `megabiomed evaluate`: perplexities, and accuracies in % with 95 % intervals, as Markdown."""
    rows = [(folder.name, figures(folder)) for folder in evaluations]
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    lines = [["model", *names], ["---"] * (len(names) + 1)]
    lines += [[model, *(row.get(name, "") for name in names)] for model, row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figures(folder: Path) -> dict[str, str]:
    """Column and cell of each figure in a folder's results.json."""
    file = folder / "results.json"
    if not file.is_file():
        raise FileError(
            f"{folder} holds no finished evaluation",
            got="no results.json",
            expected="results.json",
            do="run `megabiomed evaluate`",
        )
    results = read_json(file, dict)
    row = {f"perplexity, {name}": shown(of["perplexity"], ".2f") for name, of in results["perplexity"].items()}
    for name, task in results["tasks"].items():
        shares = [100 * task["accuracy"][part] for part in ("value", "low", "high")]
        row[f"{name}, {task['items']} questions"] = "{:.1f} [{:.1f}, {:.1f}]".format(*shares)
    return row


if __name__ == "__main__":
    main()
