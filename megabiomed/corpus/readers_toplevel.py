"""Records with the parse beside the metadata: CORD-19, S2ORC 20210101, and `Paper.as_json` of s2orc-doc2json.

`{paper_id, metadata: {title, authors[, year, identifiers]}, abstract: [...], body_text: [...], bib_entries, ref_entries,
back_matter}`; CORD-19's files of PubMed Central have no `abstract`. `paper_id` is a PMC id, the SHA-1 of a PDF, or a number.
"""

from __future__ import annotations

from megabiomed.corpus.layouts import Layout
from megabiomed.corpus.readers_2020 import paper_2020
from megabiomed.corpus.readers_lines import Record
from megabiomed.corpus.readers_nested import joined_metadata, metadata_of
from megabiomed.corpus.records import Paper, Rejects


def toplevel_paper(record: Record, rejects: Rejects) -> Paper | None:
    """A paper whose paragraphs stand in the record itself; None, counted, when it has none."""
    if (metadata := metadata_of(record, rejects)) is None:
        return None
    return paper_2020(record, joined_metadata(record, metadata), record.value, rejects)


TOPLEVEL = Layout(toplevel_paper, keys=(("paper_id", "metadata", "body_text"),))
