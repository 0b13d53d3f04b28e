"""XML is streamed element by element; entities, DTDs and external references are never read, and bombs are cut off."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO

import pytest

from megabiomed.corpus import xml_records
from megabiomed.corpus.records import Rejects
from megabiomed.corpus.xml_records import is_xml, xml_elements

DTD = b'<!DOCTYPE set PUBLIC "-//NLM//DTD X" "https://dtd.invalid/x.dtd">'
SET = b"<?xml version='1.0'?>" + DTD + b"<set><paper n='1'>One</paper> <paper n='2'>T<i>w</i>o</paper>\n</set>"


def read(data: bytes | IO[bytes], *names: str) -> tuple[list[xml_records.Found], Rejects]:
    rejects = Rejects()
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    return list(xml_elements(file, frozenset(names or ("paper",)), "a.xml", rejects)), rejects


def texts(data: bytes) -> list[str]:
    return ["".join(found.element.itertext()) for found in read(data)[0]]


def test_every_wanted_element_is_found_with_its_byte() -> None:
    found, rejects = read(SET)
    assert [(f.element.get("n"), "".join(f.element.itertext())) for f in found] == [("1", "One"), ("2", "Two")]
    assert [SET[f.offset :][:10] for f in found] == [b"<paper n='"] * 2
    assert not rejects.counts


def test_namespaces_are_left_out_of_tags_and_attributes() -> None:
    data = b"<o:set xmlns:o='u:o' xmlns:l='u:l'><paper xmlns='u:p' l:href='x' id='y'><b/></paper></o:set>"
    ((found,), rejects) = read(data)
    assert [element.tag for element in found.element.iter()] == ["paper", "b"]
    assert found.element.attrib == {"href": "x", "id": "y"}
    assert not rejects.counts


def test_characters_that_the_dtds_name_are_known_without_the_dtd() -> None:
    assert texts(DTD + b"<set><paper>&alpha;&nbsp;&lt;&#x3b2;</paper></set>".replace(b"&nbsp;", b"&nbsp;")) == [
        "α\xa0<β"
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_the_encoding_is_the_one_that_the_file_names(encoding: str) -> None:
    data = f"<?xml version='1.0' encoding='{encoding}'?><paper>caf\xe9</paper>".encode(encoding)
    assert is_xml(data)
    assert texts(data) == ["caf\xe9"]


@pytest.mark.parametrize(
    ("beginning", "xml"),
    [(b"\xef\xbb\xbf\n <a", True), (b"<a/>", True), (b'{"a": "<b/>"}', False), (b"", False), (b"text <a>", False)],
)
def test_xml_is_known_by_its_first_bytes(beginning: bytes, xml: bool) -> None:
    assert is_xml(beginning) == xml


LAUGHS = b"".join(b'<!ENTITY l%d "%s">' % (n, b"&l%d;" % (n - 1) * 10) for n in range(1, 30))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'<!DOCTYPE a [<!ENTITY l0 "ha">' + LAUGHS + b"]><paper>&l29;</paper>", "record: XML that declares entities"),
        (
            b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><paper>&x;</paper>',
            "record: XML that declares entities",
        ),
        (b'<!DOCTYPE a [<!ENTITY % x SYSTEM "http://x.invalid">%x;]><paper/>', "record: XML that declares entities"),
        (b'<!DOCTYPE a [<!ENTITY x "y">]><paper/>', "record: XML that declares entities"),
        (DTD + b"<paper>&unheardof;</paper>", "record: damaged XML"),
        (b"<paper>&nbsp;</paper>", "record: damaged XML"),
        (b"<paper><b></paper></b>", "record: damaged XML"),
        (b"<paper>", "record: damaged XML"),
        (b"<paper>\xff\xfe</paper>", "record: damaged XML"),
        (b"<?xml version='1.0' encoding='klingon'?><paper/>", "record: damaged XML"),
        (b"<?xml version='1.0' encoding='shift_jis'?><paper>\x88\xea</paper>", "record: damaged XML"),
        (b"<paper>" + b"<b>" * 200 + b"</b>" * 200 + b"</paper>", "record: oversized XML"),
        (b"<b>" * 300_000, "record: oversized XML"),
        (b"", "record: damaged XML"),
        (b"<set><other><thing/></other></set>", "record: unknown layout"),
    ],
)
def test_what_is_no_paper_is_counted_once(data: bytes, reason: str) -> None:
    found, rejects = read(data)
    assert not found
    assert rejects.counts == {reason: 1}


def test_an_unknown_file_says_which_elements_it_has() -> None:
    _, rejects = read(b"<set><other><thing/></other></set>")
    assert rejects.samples["record: unknown layout"] == ["a.xml: XML with set, other, thing; none of paper"]


def test_papers_before_a_damage_are_read_and_it_is_said_that_the_rest_is_not() -> None:
    found, rejects = read(SET.replace(b"T<i>", b"T<x>"))
    assert [f.element.get("n") for f in found] == ["1"]
    assert "nothing after paper 1 of the file is read" in rejects.samples["record: damaged XML"][0]


class Endless(io.RawIOBase):
    """A file that never ends; `reads` counts how often it was asked."""

    def __init__(self, head: bytes, piece: bytes) -> None:
        self._head = head
        self._piece = piece
        self.reads = 0

    def read(self, size: int = -1) -> bytes:
        self.reads += 1
        head, self._head = self._head, b""
        return head + self._piece


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"<paper>", b"<b/>" * 16384),
        (b"<paper>", b"words " * 10000),
        (b"<paper>", b"<b c='d' e='f'/>" * 4096),
        (b"<paper ", b"x" * 65536),
        (b"<paper x='", b"x" * 65536),
        (b"<paper><!-- ", b"x" * 65536),
        (b"<set><!-- ", b"x" * 65536),
    ],
    ids=["elements", "text", "attributes", "tag", "value", "comment", "comment outside"],
)
def test_an_endless_paper_is_cut_off(head: bytes, piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml_records, "MAX_BYTES", 1 << 22)
    monkeypatch.setattr(xml_records, "MAX_PARTS", 1 << 17)
    file = Endless(head, piece)
    found, rejects = read(file)
    assert not found
    assert rejects.counts == {"record: oversized XML": 1}
    assert file.reads < 100


def test_a_stream_of_papers_may_be_longer_than_one_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml_records, "MAX_BYTES", 1 << 18)
    monkeypatch.setattr(xml_records, "MAX_PARTS", 100)
    data = b"<set>" + b"<paper><b/>words</paper>" * 50_000 + b"</set>"
    found, rejects = read(data)
    assert len(found) == 50_000
    assert not rejects.counts


def test_any_byte_may_be_another(damaged: Callable[[bytes, int], list[bytes]]) -> None:
    for data in damaged(SET, 400):
        found, rejects = read(data)
        assert len(found) + rejects.records >= 1
