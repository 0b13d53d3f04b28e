"""A tiny byte-level BPE with the files of a chat model beside it, as Qwen, Llama-3 and SmolLM have them."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

END = "<|endoftext|>"
START = "<|im_start|>"
TURN_END = "<|im_end|>"
THINK = "<think>"
THOUGHT = "</think>"
SPECIAL = (END, START, TURN_END)
TEXT = "the heart of the cell binds the protein; kinases of the heart and the liver bind it too. "
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] | trim + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_level(
    folder: Path, vocab_size: int = 300, bos: bool = False, template: str | None = CHATML, text: str = TEXT
) -> Path:
    """Write tokenizer.json and the files beside it; returns the former.

    Args:
        vocab_size: pieces, before the five tokens that are added to them.
        bos: put <|endoftext|> before every text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [text] * 20, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in (THINK, THOUGHT)])
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single=f"{END} $A", special_tokens=[(END, made.token_to_id(END))]
        )
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": TURN_END, "pad_token": END}
    config |= {"bos_token": END} if bos else {}
    config |= {"chat_template": template} if template is not None else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ends = [made.token_to_id(token) for token in (TURN_END, END)]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "temperature": 0.6}))
    return folder / "tokenizer.json"
