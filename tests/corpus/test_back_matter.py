"""Back matter is known by the type that the markup gives it, and else by its header."""

from __future__ import annotations

import pytest

from megabiomed.corpus.back_matter import kind_of_section


@pytest.mark.parametrize(
    ("markup", "header", "kind"),
    [
        ("COI-statement", "", "conflicts"),
        ("AUTH_CONT", "", "contributions"),
        ("ACK_FUND", "", "funding"),
        ("intro", "Acknowledgments", "acknowledgements"),
        (None, "7.2 Conflict of interest statement", "conflicts"),
        (None, "Declaration of Competing Interest", "conflicts"),
        (None, "Author’s Contributions:", "contributions"),
        (None, "CRediT authorship contribution statement", "contributions"),
        (None, "FUNDING SOURCES", "funding"),
        (None, "Acknowledgement", "acknowledgements"),
        (
            None,
            "Funding of hospitals and the conflicts of a divided health system: a long header about something else",
            "",
        ),
        (None, "Contribution of mitochondria to ageing", ""),
        (None, "Methods", ""),
        (None, "", ""),
    ],
)
def test_the_kind_of_a_section(markup: str | None, header: str, kind: str) -> None:
    assert kind_of_section(markup, header) == kind
