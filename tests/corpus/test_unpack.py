"""Packed input: every legal file is read, a damaged one up to its damage, and a bomb is cut off in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from megabiomed.corpus.parquet_rows import parquet_rows
from megabiomed.corpus.readers_lines import read_records
from megabiomed.corpus.records import Rejects
from megabiomed.corpus.unpack import RATIO_FROM, UnpackLimits, open_unpacked, unpacking
from megabiomed.corpus.unpack_streams import Damage
from megabiomed.ground.errors import DataError
from megabiomed.samples.documents import read_entries, text_lines

Pack = Callable[[bytes], bytes]
PACK: dict[str, Pack] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(level=3).compress,
}
PACKED = pytest.mark.parametrize("name", PACK)
LINES = b"".join(json.dumps({"n": n, "text": f"word {n * 7919} " * 9}).encode() + b"\n" for n in range(3000))


def without_size(data: bytes) -> bytes:
    """A zstd frame that does not state the size of its content, written in pieces."""
    stream = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return b"".join(stream.compress(data[at : at + 999]) for at in range(0, len(data), 999)) + stream.flush()


def with_window(log: int) -> Pack:
    """Written in pieces, or the window would be no larger than the data."""

    def pack(data: bytes) -> bytes:
        wanted = zstandard.ZstdCompressionParameters(window_log=log)
        stream = zstandard.ZstdCompressor(compression_params=wanted).compressobj()
        return b"".join(stream.compress(data[at : at + 999]) for at in range(0, len(data), 999)) + stream.flush()

    return pack


def skippable(data: bytes, kind: int = 0) -> bytes:
    return struct.pack("<II", 0x184D2A50 + kind, len(data)) + data


HALF = len(LINES) // 2
ZSTD = PACK["zstd"]
LEGAL = {
    **{f"{name}, two streams": pack(LINES[:HALF]) + pack(LINES[HALF:]) for name, pack in PACK.items()},
    **{f"{name}, empty streams": pack(b"") * 3 + pack(LINES) + pack(b"") for name, pack in PACK.items()},
    "gzip, zeros behind": gzip.compress(LINES) + b"\0" * 700,
    "gzip, zeros between": gzip.compress(LINES[:HALF]) + b"\0" * 40_000 + gzip.compress(LINES[HALF:]),
    "xz, padding between": lzma.compress(LINES[:HALF]) + b"\0" * 8 + lzma.compress(LINES[HALF:]) + b"\0" * 4,
    "zstd, no size": without_size(LINES),
    "zstd, skippable first": skippable(b"index" * 9) + ZSTD(LINES),
    "zstd, skippable between": ZSTD(LINES[:HALF]) + skippable(b"x" * 99_999, 15) + ZSTD(LINES[HALF:]) + skippable(b""),
    "zstd, large window": with_window(27)(LINES),
}  # fmt: skip


@pytest.mark.parametrize("data", LEGAL.values(), ids=LEGAL)
def test_every_legal_file_is_read_whole(tmp_path: Path, data: bytes) -> None:
    path, rejects = tmp_path / "a.jsonl", Rejects()
    path.write_bytes(data)
    with open_unpacked(path) as file:
        assert file.read() == LINES
    found = list(read_records(path, rejects))
    assert [record.value["n"] for record in found] == list(range(3000))
    assert LINES[found[-1].offset :] == LINES.splitlines(keepends=True)[-1]
    assert "".join(text_lines(path)).encode() == LINES
    assert not rejects.counts


@PACKED
def test_what_stands_before_a_damage_counts_and_the_damage_is_named(tmp_path: Path, name: str) -> None:
    path, whole = tmp_path / "a", PACK[name](random.Random(0).randbytes(400_000).hex().encode())
    flipped = bytearray(whole)
    flipped[-40 if name == "xz" else len(whole) * 4 // 5] ^= 0xFF
    for data, kind in [
        (whole[: len(whole) // 2], "truncated"),
        (whole[:-1], "truncated"),
        (bytes(flipped), "damaged"),
        (whole + b"no such magic", "damaged"),
    ]:
        path.write_bytes(data)
        rejects = Rejects()
        list(read_records(path, rejects))
        assert rejects.counts[f"input: {kind} {name}"] == 1, (kind, rejects.counts)
        with pytest.raises(DataError, match=f"is {kind} {name} data"):
            list(read_entries(path, lambda row: False))


@PACKED
def test_a_file_cut_at_any_byte_or_with_any_byte_changed_is_read_or_damaged_and_nothing_else(
    tmp_path: Path, name: str
) -> None:
    path, text = tmp_path / "a", LINES[:400]
    whole, pick = PACK[name](text), random.Random(name)
    for data in [whole[:at] for at in range(4, len(whole))] + [
        whole[:at] + bytes([pick.randrange(256)]) + whole[at + 1 :] for at in range(len(whole))
    ]:
        path.write_bytes(data)
        with suppress(Damage), open_unpacked(path) as file:
            file.read()


def bomb(name: str) -> bytes:
    """A packed file of one record and of spaces without line ends, as one frame (zstd) or in equal streams."""
    beginning = PACK[name](b'{"n": 1}\n')
    if name == "zstd":
        return beginning + PACK[name](b" " * (4 * RATIO_FROM))
    return beginning + PACK[name](b" " * (RATIO_FROM // 8)) * 32


CHILD = """
import re, sys
from pathlib import Path
from megabiomed.corpus.readers_lines import read_records
from megabiomed.corpus.records import Rejects
from megabiomed.ground.errors import DataError
from megabiomed.samples.documents import read_entries
def peak():  # in KiB; getrusage would count the parent's before exec
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
for path in map(Path, sys.argv[1:]):
    rejects = Rejects()
    for read in (lambda: read_records(path, rejects, 1 << 22), lambda: read_entries(path, lambda row: False)):
        number = 0
        try:
            for number, _ in enumerate(read(), 1):
                pass
        except DataError as error:
            print(error)
        else:
            print(number, *rejects.counts)
print((peak() - before) // 1024)
"""


def read_in_child(*paths: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", CHILD, *paths], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_bombs_are_cut_off_and_counted_in_bounded_memory(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.jsonl" for name in PACK]
    for file in files:
        file.write_bytes(bomb(file.stem))
        assert file.stat().st_size < 1_300_000
    *said, peak = read_in_child(*files)
    for name, counted, refused in zip(PACK, said[::2], said[1::2], strict=True):
        assert counted == f"1 input: oversized {name}"
        assert f"is oversized {name} data: got it unpacks to" in refused
        assert "more than 250 times (max_unpack_ratio)" in refused
    assert int(peak) < 500


def dictionary(path: Path) -> None:
    """One long value, named once and repeated by every row."""
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000, pa.int32()), pa.array(["x" * 1_000_000]))
    pq.write_table(pa.table({"text": values}), path)


def long_value(path: Path) -> None:
    pq.write_table(
        pa.table({"text": ["x" * (RATIO_FROM + 1)]}),
        path,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
    )


def long_list(path: Path) -> None:
    size = RATIO_FROM // 2 + 1
    values = pa.ListArray.from_arrays([0, size], pa.nulls(size, pa.int8()))
    pq.write_table(pa.table({"text": values}), path)


def long_texts(path: Path) -> None:
    """As `dictionary`, of a type that does not say so."""
    pq.write_table(pa.table({"text": ["x" * 100_000] * 2_000}), path)


def test_bombs_in_parquet_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    files = []
    for write in (dictionary, long_value, long_list, long_texts):
        files.append(tmp_path / f"{write.__name__}.parquet")
        write(files[-1])
        assert files[-1].stat().st_size < 300_000
    *said, peak = read_in_child(*files)
    for file, *refused in zip(files, said[::2], said[1::2], strict=True):
        assert all(f"{file} unpacks to too much: got" in line for line in refused)
    assert int(peak) < 800


def test_rows_of_an_honest_parquet_are_all_read(tmp_path: Path) -> None:
    rows = [{"text": f"paper {n} " * 20, "tags": [None, "a", str(n)], "n": n} for n in range(5000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=700)
    assert list(parquet_rows(tmp_path / "a.parquet")) == rows
    (tmp_path / "b.parquet").write_bytes(b"PAR1" + bytes(40))
    with pytest.raises(DataError, match=r"b\.parquet cannot be read as Parquet"):
        list(parquet_rows(tmp_path / "b.parquet"))


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (UnpackLimits(max_unpacked_bytes=100_000), r"more than 100,000 bytes \(max_unpacked_bytes\)"),
        (UnpackLimits(max_window_bytes=1 << 20), r"its window is larger .*max_window_bytes"),
    ],
    ids=["size", "window"],
)
@pytest.mark.parametrize("name", ["zstd", "xz"])
def test_limits_are_settable(tmp_path: Path, name: str, limits: UnpackLimits, said: str) -> None:
    pack = with_window(24) if name == "zstd" else PACK[name]
    (tmp_path / "a.jsonl").write_bytes(pack(LINES))
    rejects = Rejects()
    with unpacking(limits):
        list(read_records(tmp_path / "a.jsonl", rejects))
        with pytest.raises(DataError, match=said):
            list(text_lines(tmp_path / "a.jsonl"))
    assert sum(rejects.counts.values()) == 1
    assert len(list(read_records(tmp_path / "a.jsonl", Rejects()))) == 3000


def test_very_repetitive_records_are_no_bomb(tmp_path: Path) -> None:
    """A long run of one record packs beyond the ratio, and is still below the size from which that counts."""
    line = json.dumps({"text": "the same words " * 20}).encode() + b"\n"
    (tmp_path / "a.jsonl").write_bytes(zstandard.compress(line * 50_000))
    assert sum(1 for _ in read_records(tmp_path / "a.jsonl", Rejects(strict=True))) == 50_000


def archive(kind: str) -> bytes:
    held = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("a.jsonl", LINES)
    else:
        with tarfile.open(fileobj=held, mode="w") as packed_tar:
            member = tarfile.TarInfo("a.jsonl")
            member.size = len(LINES)
            packed_tar.addfile(member, io.BytesIO(LINES))
    return held.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (archive("zip"), "is a zip archive"),
        (archive("tar"), "is a tar archive"),
        (gzip.compress(archive("tar")), "is a tar archive"),
        (ZSTD(archive("zip")), "is a zip archive"),
        (gzip.compress(bz2.compress(LINES)), "is packed twice: got bzip2 in gzip"),
        (lzma.compress(skippable(b"") + ZSTD(LINES)), "is packed twice: got zstd in xz"),
    ],
    ids=["zip", "tar", "tar in gzip", "zip in zstd", "bzip2 in gzip", "zstd in xz"],
)
def test_archives_and_files_that_are_packed_twice_are_refused(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)
    for read in (
        lambda path: read_records(path, Rejects()),
        text_lines,
        lambda path: read_entries(path, lambda row: True),
    ):
        with pytest.raises(DataError, match=f"{said}.*unpack it"):
            list(read(tmp_path / "a.jsonl"))


def test_words_that_begin_like_a_packed_file_are_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"BZh9 is how bzip2 files begin\n")
    assert list(text_lines(tmp_path / "a")) == ["BZh9 is how bzip2 files begin\n"]
