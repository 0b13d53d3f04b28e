"""Archives are streamed file by file; a broken header costs its file, and is counted."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from typing import Any

import pytest

from megabiomed.corpus.archive_members import archive_members
from megabiomed.corpus.records import Rejects

FILES = {f"papers/PMC{n}.xml": bytes([65 + n]) * (400 * n) for n in range(6)}


def packed(files: dict[str, bytes], **options: Any) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", **options) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return held.getvalue()


def read(data: bytes) -> tuple[dict[str, bytes], Rejects]:
    rejects = Rejects()
    return {m.name: m.file.read() for m in archive_members(io.BytesIO(data), "a.tar", rejects)}, rejects


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_file_is_read_under_its_name_at_its_byte(kind: int) -> None:
    files = {**FILES, "x" * 99 + "/" + "long" * 20 + ".xml": b"long", "\u03b1.xml": b"alpha"}
    data = packed(files, format=kind)
    found, rejects = read(data)
    assert found == files
    assert not rejects.counts
    offsets = {m.name: (m.offset, m.size) for m in archive_members(io.BytesIO(data), "a.tar", rejects)}
    assert {name: data[at : at + size] for name, (at, size) in offsets.items()} == files


def test_files_that_are_not_read_to_their_end_do_not_move_the_next_one() -> None:
    members = archive_members(io.BytesIO(packed(FILES)), "a.tar", Rejects())
    assert [member.file.read(3) for member in members] == [data[:3] for data in FILES.values()]


def test_links_and_folders_are_passed_over() -> None:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("x")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    found, rejects = read(held.getvalue() + packed(FILES))  # and archives may be joined
    assert found == FILES
    assert not rejects.counts


def test_a_broken_header_costs_its_file_and_is_counted() -> None:
    data = bytearray(packed(FILES))
    at = bytes(data).index(b"papers/PMC3.xml")
    data[at + 148 : at + 156] = b"notasum\0"
    found, rejects = read(bytes(data))
    assert found == {name: held for name, held in FILES.items() if "PMC3" not in name}
    assert rejects.counts == {"record: archive member with a broken header": 1}


def test_an_archive_that_ends_inside_a_file_is_counted() -> None:
    data = packed(FILES)
    found, rejects = read(data[: data.index(b"E" * 400) + 100])
    assert len(found["papers/PMC4.xml"]) == 100
    assert rejects.counts == {"input: truncated archive": 1}


def test_sizes_that_lie_are_bounded() -> None:
    header = tarfile.TarInfo("liar")
    header.size = 1 << 60
    for kind in (tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        header.type = kind
        found, rejects = read(header.tobuf(tarfile.GNU_FORMAT) + b"x" * 5000)
        assert rejects.counts in ({"input: truncated archive": 1}, {})
        assert list(found.values()) in ([b"x" * 5000], [])


def test_any_byte_may_be_another(damaged: Callable[[bytes, int], list[bytes]]) -> None:
    for data in damaged(packed(FILES), 400):
        read(data)
