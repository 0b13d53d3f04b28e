"""Stream the elements of an XML file that hold one paper each, through defusedxml, in bounded memory.

Entities that a file declares, DTDs and external references are never read. A file may name an external DTD, as PubMed
Central's and MEDLINE's do: it is not opened, and the characters that such DTDs name (`&nbsp;`, `&alpha;`) are those of HTML 5.
Size, depth, the number of elements and the length of a tag are limited, so a bomb costs a paper and no memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from html.entities import html5
from typing import IO, Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from megabiomed.corpus.records import Rejects

MAX_BYTES = 1 << 26
"""Of one element with a paper; the longest of PubMed Central are some tens of megabytes."""
MAX_DEPTH = 128
MAX_PARTS = 1 << 20
"""Elements and attributes of one paper; each takes some hundred bytes of memory."""
MAX_TAG_BYTES = 1 << 20
"""expat reads an unfinished tag or comment again for every piece of it, so its length is limited apart."""
_CHUNK = 1 << 16
_SEEN = 8
_MOST_NAMES = 4096
_CHARACTERS = {name.removesuffix(";"): text for name, text in html5.items()}


class _Excess(Exception):
    """A file is deeper or larger than an XML file of papers."""


@dataclass(frozen=True)
class Found:
    """An element and the byte at which it begins; tags and attributes are without their namespaces."""

    element: Element
    offset: int


def xml_elements(file: IO[bytes], names: frozenset[str], where: str, rejects: Rejects) -> Iterator[Found]:
    """Yield the elements of these names, wherever they stand; what is wrong is counted.

    After damage in a file of several papers the rest cannot be read, because nothing tells where the next one begins.

    Args:
        names: of the elements, without their namespaces.
        where: the place for the rejects.

    Raises:
        Damage: the file is packed, and its packed data are damaged.
    """
    target = _Target(names)
    parser = DefusedXMLParser(target=target)
    parser.entity.update(_CHARACTERS)
    target.attach(parser.parser)
    fed = 0
    try:
        while data := file.read(_CHUNK):
            parser.feed(data)
            fed += len(data)
            target.check(fed)
            yield from target.take()
        parser.close()
    except (ParseError, DefusedXmlException, _Excess, LookupError, ValueError) as error:
        yield from target.take()
        rejects.add(f"record: {_reason(error)}", where, _detail(error, target.count))
        return
    yield from target.take()
    if not target.count:
        rejects.add(
            "record: unknown layout", where, f"XML with {', '.join(target.seen)}; none of {', '.join(sorted(names))}"
        )


def is_xml(beginning: bytes) -> bool:
    """Whether a file that begins like this is XML; neither JSON nor a table begins so."""
    return beginning.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<" or beginning[:4] in (
        b"\xff\xfe<\0",
        b"\xfe\xff\0<",
    )


class _Target:
    """What the parser calls: builds the trees of the wanted elements and nothing else."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._builder: TreeBuilder | None = None
        self._done: deque[Found] = deque()
        self._depth = self._outer = self._parts = self._begin = 0
        self.expat: Any = None
        self._locals: dict[str, str] = {}
        self.count = 0
        self.seen: list[str] = []

    def attach(self, expat: Any) -> None:
        """Be called by expat itself: the methods of ElementTree's parser in between cost as much as all of this class."""
        self.expat = expat
        expat.StartElementHandler, expat.EndElementHandler = self.start, self.end

    def start(self, tag: str, attributes: list[str]) -> None:
        """An element begins; names are `URI}NAME`, attributes are names and values in turn."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Excess(f"more than {MAX_DEPTH} elements in each other")
        name = self._locals.get(tag) or self._local(tag)
        if self._builder is None:
            if name not in self._names:
                if len(self.seen) < _SEEN and name not in self.seen:
                    self.seen.append(name)
                return
            self._builder = TreeBuilder()
            self._outer = self._depth
            self._parts = 0
            self._begin = self.expat.CurrentByteIndex
        self._parts += 1 + len(attributes) // 2
        if self._parts > MAX_PARTS:
            raise _Excess(f"more than {MAX_PARTS:,} elements and attributes in one paper")
        named = zip(attributes[::2], attributes[1::2])
        self._builder.start(name, {self._locals.get(key) or self._local(key): value for key, value in named})

    def end(self, tag: str) -> None:
        """An element ends."""
        if self._builder is not None:
            self._builder.end(self._locals.get(tag) or self._local(tag))
            if self._depth == self._outer:
                self._done.append(Found(self._builder.close(), self._begin))
                self._builder = None
                self.count += 1
        self._depth -= 1

    def data(self, text: str) -> None:
        """Text between two tags, or a part of it."""
        if self._builder is not None:
            self._builder.data(text)

    def _local(self, name: str) -> str:
        """A name without its namespace; one object for equal names, of which a file has a few hundred."""
        if len(self._locals) > _MOST_NAMES:
            self._locals.clear()
        self._locals[name] = name.rpartition("}")[2]
        return self._locals[name]

    def close(self) -> None:
        """Called at the end of the file."""

    def check(self, fed: int) -> None:
        """Raise when a tag or an element has become too long after so many bytes."""
        if fed - self.expat.CurrentByteIndex > MAX_TAG_BYTES:
            raise _Excess(f"more than {MAX_TAG_BYTES:,} bytes in one tag or comment")
        if self._builder is not None and fed - self._begin > MAX_BYTES:
            raise _Excess(f"more than {MAX_BYTES:,} bytes in one paper")

    def take(self) -> Iterator[Found]:
        """The elements that are complete."""
        while self._done:
            yield self._done.popleft()


def _reason(error: Exception) -> str:
    if isinstance(error, _Excess):
        return "oversized XML"
    return "XML that declares entities" if isinstance(error, DefusedXmlException) else "damaged XML"


def _detail(error: Exception, papers: int) -> str:
    rest = f"; nothing after paper {papers} of the file is read" if papers else ""
    return f"{error}{rest}"
