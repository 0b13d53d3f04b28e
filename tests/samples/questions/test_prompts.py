"""Templates show what they should, and a window cuts examples and context, never the question."""

from __future__ import annotations

import pytest

from megabiomed.ground.errors import ConfigError
from megabiomed.samples.questions.encode import encode_pair, encode_prompt
from megabiomed.samples.questions.records import VERDICTS, QuestionRecord
from megabiomed.samples.questions.templates import TEMPLATES, find_template, render
from megabiomed.samples.rejects import Unusable
from megabiomed.tokenizer.interface import Tokenizer
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer

ABSTRACT = QuestionRecord(
    "1", "pubmedqa", "Does {it} help?", VERDICTS, 2, "maybe", " ".join(f"word{n}" for n in range(90))
)
EXAM = QuestionRecord("2", "medqa", "Which {options}?", ("bone", "skin", "vein"), 1, "skin")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = [template.body + template.system for template in TEMPLATES.values()] * 4
    return train_tokenizer(iter([*texts, ABSTRACT.context]), tmp_path_factory.mktemp("t") / "t.model", 420)


def test_every_template_shows_question_and_options_and_names_its_origin() -> None:
    for name, template in TEMPLATES.items():
        assert template.origin, name
        for kind in template.kinds:
            record = ABSTRACT if kind == "pubmedqa" else EXAM
            prompt = render(template, record)
            assert record.question in prompt.text, name
            assert prompt.options == () or prompt.answer == prompt.options[record.label or 0], name
            if template.option:
                assert all(option in prompt.text for option in record.options), name
            if kind == "pubmedqa":
                assert ABSTRACT.context in prompt.text, name
    with pytest.raises(ConfigError, match="pmc-llama"):
        find_template("pubmedqa", "medmcqa")


def test_a_question_may_hold_what_templates_are_made_of() -> None:
    words = "What is \0, {options} or {question}?"
    record = QuestionRecord("q", "medmcqa", words, ("a", "b", "c", "d"), 0, "a")
    text = render(TEMPLATES["medmcqa"], record).text
    assert text == f"Question: {words}\nChoices:\nA. a\nB. b\nC. c\nD. d\nAnswer:"


def test_a_long_context_is_cut_from_its_beginning_and_examples_go_first(tokenizer: Tokenizer) -> None:
    prompt = render(TEMPLATES["pubmedqa"], ABSTRACT)
    whole = encode_prompt(tokenizer, prompt, 4000, ["an example: yes", "another: no"])
    assert whole.cut_words == whole.cut_shots == 0
    assert whole.text.startswith("an example: yes\n\nanother: no\n\nAbstract:")
    without = len(encode_prompt(tokenizer, prompt, 4000).prompt) + 6
    fits = encode_prompt(tokenizer, prompt, without, ["an example: yes", "another: no"])
    assert (fits.cut_shots, fits.cut_words) == (2, 0)
    cut = encode_prompt(tokenizer, prompt, 120, ["an example: yes"])
    assert cut.cut_shots == 1
    assert cut.cut_words > 0
    assert cut.text.endswith("word89\nQuestion: Does {it} help?\nAnswer:")
    assert len(cut.prompt) + max(map(len, cut.options)) <= 120
    one_more = encode_prompt(tokenizer, prompt, 120 + 40, [])
    assert one_more.cut_words < cut.cut_words
    with pytest.raises(Unusable, match="longer than the window"):
        encode_prompt(tokenizer, render(TEMPLATES["medqa"], EXAM), 10)


def test_continuations_are_the_tokens_of_the_whole_text(tokenizer: Tokenizer) -> None:
    for prompt, answer in (("Answer:", " yes"), ("Answer: ", "yes"), ("Options (A) ", " two words")):
        first, then = encode_pair(tokenizer, prompt, answer)
        assert [*first[1:], *then] == tokenizer.encode(prompt + answer)
        assert first[0] == tokenizer.bos_id
        assert then
