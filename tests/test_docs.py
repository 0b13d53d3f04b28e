"""README and docs name what exists: files, links and their anchors, commands with their options, configuration keys."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from test_rooms import FLOORS, arrows
from typer.core import TyperGroup
from typer.main import get_command

from megabiomed.cli import app
from megabiomed.config.reference import reference

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOTS = (ROOT, ROOT / "megabiomed", ROOT / "tests")
"""Folders that a path in the text may start from."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def blocks(text: str, *languages: str) -> Iterator[str]:
    """The fenced blocks of a page in one of these languages."""
    for language, block in FENCE.findall(text):
        if language in languages:
            yield block


def files_named(text: str) -> Iterator[str]:
    """Source files that a page names, with their folder: `engine/zero.py`, `configs/runs/demo.yaml`, `corpus/readers*.py`."""
    yield from re.findall(r"(?<![\w./-])(?:[\w*-]+/)+[\w*-]+\.py\b", text)
    yield from re.findall(r"(?<![\w./-])(?:configs|tests|launch)/[\w*/{},-]+\.(?:yaml|md|sh|json|svg)", text)


def exists(path: str) -> bool:
    """Whether a named file, or at least one file of a pattern, exists; `{a,b}` must both exist."""
    braces = re.search(r"\{([^}]*)\}", path)
    if braces:
        return all(exists(path.replace(braces[0], part)) for part in braces[1].split(","))
    return any(next(root.glob(path), None) for root in ROOTS)


def links(text: str) -> Iterator[str]:
    """Targets of the relative links of a page."""
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        if not target.startswith(("http:", "https:")):
            yield target


def anchors(text: str) -> set[str]:
    """What `#...` can name in a page, by GitHub's rule, and explicit `<a id>`."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


def commands(text: str) -> Iterator[list[str]]:
    """The words after `megabiomed` wherever a page shows a command: shell blocks, inline code, chains of jobs.

    Inline code may name several commands of one group: "megabiomed corpus build, inspect".
    """
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for command in re.split(r"; | && | \| ", " ".join(words)):
                called = re.search(r" megabiomed(?:\.cli)? (.*)", f" {command} ")
                if called:
                    yield called[1].split()
    for chain in re.findall(r"command: \[([^\]]*)\]", text):
        yield [word.strip().strip('"') for word in chain.split(",")]
    for code in re.findall(r"`megabiomed ([^`\n]+)`", FENCE.sub("", text)):
        several = re.fullmatch(r"(?:(\w+) )?([\w-]+(?:, [\w-]+)+)", code)
        if several:
            group = [several[1]] if several[1] else []
            yield from ([*group, name] for name in several[2].split(", "))
        else:
            yield code.split()


@cache
def keys() -> set[str]:
    """Every key of a configuration."""
    return set(re.findall(r"^\| `([^`]+)`", reference(), re.MULTILINE))


def wrong(words: list[str]) -> str | None:
    """What the command line does not know of these words; None when it knows all."""
    command = get_command(app)
    while isinstance(command, TyperGroup):
        if not words or words[0] in ("...", "--help", "--version") or words[0].isupper():
            return None
        if words[0] not in command.commands:
            return "the command"
        command, words = command.commands[words[0]], words[1:]
    options = {"--help"} | {
        name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
    }
    takes_keys = any(parameter.name == "overrides" for parameter in command.params)
    for word in words:
        if word.startswith("-") and word.split("=")[0] not in options:
            return word
        key = re.match(r"[a-z_]+(?:\.[a-z_0-9]+)+(?==)", word)
        if takes_keys and key and not any(f"{key[0]}.".startswith(f"{known}.") for known in keys()):
            return word
    return None


@page
def test_every_file_named_exists(page: Path) -> None:
    missing = sorted({path for path in files_named(page.read_text()) if not exists(path)})
    assert not missing


@page
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = []
    for target in links(page.read_text()):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            dead.append(target)
    assert not dead


@page
def test_every_command_shown_is_known_with_its_options_and_keys(page: Path) -> None:
    unknown = [(words, wrong(words)) for words in commands(page.read_text()) if wrong(words)]
    assert not unknown


@page
def test_every_make_target_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = [
        name for names in re.findall(r"(?<=[`\n])make ((?:[a-z-]+ ?)+)", page.read_text()) for name in names.split()
    ]
    assert set(named) <= targets


def rooms_of(architecture: str) -> dict[str, str]:
    """Room to what it does not know, in the order of the table of docs/architecture.md."""
    return dict(re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", architecture, re.MULTILINE))


def test_the_rooms_of_the_architecture_are_in_the_order_of_their_floors() -> None:
    assert tuple(rooms_of((ROOT / "docs" / "architecture.md").read_text())) == FLOORS


def test_a_room_does_not_import_what_the_architecture_says_it_does_not_know() -> None:
    unknown = rooms_of((ROOT / "docs" / "architecture.md").read_text())
    wrong = [str(arrow) for arrow in arrows() if f"`{arrow.imported}`" in unknown[arrow.importer]]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize("name", ["architecture.md", "glossary.md"])
def test_every_module_named_by_its_room_exists(name: str) -> None:
    text = (ROOT / "docs" / name).read_text()
    named = re.findall(rf"(?<![\w/.])((?:{'|'.join(FLOORS)})/[a-z0-9_*/]+)", text)
    missing = [path for path in named if not exists(path) and not exists(f"{path}.py")]
    assert named
    assert not missing


def test_every_page_is_reached_from_the_readme() -> None:
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in links((ROOT / "README.md").read_text())}
    assert set(PAGES[1:]) <= linked


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("megabiomed corpus built x", "the command"),
        ("x && megabiomed corpus build a --no-such-option 3", "--no-such-option"),
        ("megabiomed pretrain demo optimizer.rate=1", "optimizer.rate=1"),
        ("torchrun -m megabiomed.cli pretrian demo", "the command"),
        ("megabiomed pretrain demo optimizer.lr=1 --dry-run", None),
    ],
)
def test_a_wrong_command_is_found(line: str, says: str | None) -> None:
    assert [wrong(words) for words in commands(f"```bash\n{line}\n```\n")] == [says]


def test_several_commands_of_a_group_are_all_looked_up() -> None:
    assert [wrong(words) for words in commands("`megabiomed corpus build, mend`")] == [None, "the command"]


def test_a_missing_file_and_a_missing_anchor_are_found() -> None:
    assert [exists(path) for path in files_named("`engine/zero.py`, engine/nil.py and configs/{runs,models}/*.yaml")] == [
        True, False, True,
    ]  # fmt: skip
    assert anchors("# `make x`: two, three\n") == {"make-x-two-three"}
