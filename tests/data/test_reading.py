"""What a run has read: shares of its tokens by store, field and year, the same as those of its trace."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.stores import make_store

from megabiomed.config import DataConfig
from megabiomed.data.loader import TrainLoader
from megabiomed.data.reading import UNKNOWN, what_was_read
from megabiomed.data.steps import StepSamples
from megabiomed.data.trace import trace_step

FIELDS = [["Medicine", "Biology"], ["Chemistry"], []]


def test_tokens_are_counted_by_store_field_and_year_as_the_trace_names_them(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    stores = [
        make_store(
            tmp_path / name,
            tokenizer_file,
            [5, 40, 33, 7, 90, 2, 61] * 3,
            more=lambda n: {"fields": FIELDS[n % 3], "year": 2000 + n % 2},
        )
        for name in ("a", "b")
    ]
    loader = TrainLoader(stores, [3.0, 1.0], DataConfig(seq_length=16, global_batch_size=4, micro_batch_size=2), seed=3)
    years, sources = Counter[str](), Counter[str]()
    fields: dict[str, float] = {}
    for reading in trace_step(loader, StepSamples(1, 0, 40)):
        years[str(reading.provenance["year"])] += reading.tokens
        sources[str(stores[reading.source].path)] += reading.tokens
        named = reading.provenance["fields"] or [UNKNOWN]
        for each in named:
            fields[each] = fields.get(each, 0.0) + reading.tokens / len(named)
    found = what_was_read(loader, 40)
    assert (found.samples, found.looked_at) == (40, 40)
    for shares, counts in ((found.by_year, years), (found.by_field, fields), (found.by_source, sources)):
        assert shares == pytest.approx({name: count / (40 * 16) for name, count in counts.items()})
    assert list(found.by_year) == ["2000", "2001"]
    assert sum(
        passes * len(windows) for passes, windows in zip(found.passes.values(), loader.windows)
    ) == pytest.approx(40)
    some = what_was_read(loader, 40, most=8)
    assert (some.samples, some.looked_at) == (40, 8)
    assert what_was_read(loader, 0).by_year == {}
