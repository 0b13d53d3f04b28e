"""Licences have one name each, whoever spells them."""

from __future__ import annotations

import pytest

from megabiomed.corpus.licences import parse_licence


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("https://creativecommons.org/licenses/by/4.0/", "cc-by"),
        ("http://creativecommons.org/licenses/by-nc-nd/3.0/igo", "cc-by-nc-nd"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "cc0"),
        ("CC BY", "cc-by"),
        ("CC BY-NC-SA", "cc-by-nc-sa"),
        ("CCBYNCND", "cc-by-nc-nd"),
        ("CC0", "cc0"),
        ("NO-CC CODE", "no-cc code"),
        ("publicDomain", "public-domain"),
        ("Elsevier user licence", "elsevier user licence"),
        ("cc by the way", "cc-by"),
        ("a" * 1000, ""),
        ("", ""),
        (None, ""),
        (7, ""),
        (["CC BY"], ""),
    ],
)
def test_a_licence_has_one_name(written: object, name: str) -> None:
    assert parse_licence(written) == name
