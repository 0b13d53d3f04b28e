"""MEDLINE/PubMed XML: titles and abstracts, many in a file, with the ids under which full texts are known."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.records import Paper, Rejects

HEAD = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle, 1st January 2025//EN"
 "https://dtd.nlm.nih.gov/ncbi/pubmed/out/pubmed_250101.dtd">
"""
ARTICLE = """<PubmedArticle><MedlineCitation Status="MEDLINE"><PMID Version="1">5</PMID>
<Article><Journal><JournalIssue><PubDate><Year>2011</Year></PubDate></JournalIssue></Journal>
<ArticleTitle>On <i>sleep</i>.</ArticleTitle>
<Abstract><AbstractText Label="AIMS" NlmCategory="OBJECTIVE">We wanted
to sleep.</AbstractText><AbstractText Label="RESULTS">We did, for 10<sup>3</sup> s.</AbstractText>
<AbstractText Label="FUNDING"/><CopyrightInformation>Mine.</CopyrightInformation></Abstract>
<AuthorList><Author><LastName>Author</LastName></Author></AuthorList></Article>
<OtherAbstract Language="ger"><AbstractText>Schlaf.</AbstractText></OtherAbstract></MedlineCitation>
<PubmedData><ArticleIdList><ArticleId IdType="pubmed">5</ArticleId><ArticleId IdType="pmc">PMC12</ArticleId>
<ArticleId IdType="doi">10.1/x</ArticleId></ArticleIdList>
<ReferenceList><Reference><ArticleIdList><ArticleId IdType="pubmed">99</ArticleId></ArticleIdList></Reference></ReferenceList>
</PubmedData></PubmedArticle>"""
BARE = """<PubmedArticle><MedlineCitation><PMID>6</PMID><Article><Journal><JournalIssue><PubDate>
<MedlineDate>1998 Dec-1999 Jan</MedlineDate></PubDate></JournalIssue></Journal><ArticleTitle>Beds.</ArticleTitle>
{}</Article></MedlineCitation></PubmedArticle>"""
BOOK = """<PubmedBookArticle><BookDocument><PMID>7</PMID><Book><BookTitle>Sleep</BookTitle><PubDate><Year>2019</Year></PubDate>
</Book><ArticleTitle>Dreams</ArticleTitle><Abstract><AbstractText>They come.</AbstractText></Abstract></BookDocument>
</PubmedBookArticle>"""
DELETED = "<DeleteCitation><PMID>8</PMID></DeleteCitation>"


def whole(*articles: str) -> bytes:
    return (HEAD + f"<PubmedArticleSet>{''.join(articles)}</PubmedArticleSet>").encode()


def read(path: Path, data: bytes) -> tuple[list[Paper], Rejects]:
    path.write_bytes(data)
    rejects = Rejects()
    return list(read_papers(path, rejects=rejects)), rejects


def test_a_citation_is_its_title_and_its_abstract(tmp_path: Path) -> None:
    (paper,), rejects = read(tmp_path / "a.xml.gz", gzip.compress(whole(ARTICLE, DELETED)))
    assert (paper.paper_id, paper.ids) == ("PMID5", {"pubmed": "5", "pmc": "12", "doi": "10.1/x"})
    assert (paper.title, paper.year) == ("On sleep.", 2011)
    assert paper.text == "On sleep.\n\nAIMS: We wanted to sleep.\n\nRESULTS: We did, for 10^3 s."
    assert [paper.text[s.start : s.end] for s in paper.spans["abstract"]] == paper.text.split("\n\n")[1:]
    assert paper.is_abstract  # so that it makes room for the full text
    assert clean(paper, CleanRules(min_words=1), Counter()) == paper.text
    assert not rejects.counts


def test_every_citation_of_a_file_is_a_paper_and_those_without_abstract_are_counted(tmp_path: Path) -> None:
    abstract = "<Abstract><AbstractText>Soft.</AbstractText></Abstract>"
    empty = BARE.format("<Abstract><AbstractText>  </AbstractText></Abstract>")
    papers, rejects = read(tmp_path / "a.xml", whole(ARTICLE, BARE.format(""), empty, BARE.format(abstract), BOOK))
    assert [(p.paper_id, p.title, p.year) for p in papers] == [
        ("PMID5", "On sleep.", 2011), ("PMID6", "Beds.", 1998), ("PMID7", "Dreams", 2019),
    ]  # fmt: skip
    assert rejects.counts == {"record: text is empty": 2}


@pytest.mark.parametrize(
    ("article", "reason"),
    [
        ("<PubmedArticle/>", "record: text is empty"),
        ("<PubmedArticle><MedlineCitation/></PubmedArticle>", "record: text is empty"),
        ("<DeleteCitation/>", "record: unknown layout"),
    ],
)
def test_damage_is_counted(tmp_path: Path, article: str, reason: str) -> None:
    papers, rejects = read(tmp_path / "a.xml", whole(article))
    assert not papers
    assert rejects.counts == {reason: 1}


def test_a_citation_without_ids_is_named_by_its_place(tmp_path: Path) -> None:
    article = BARE.format("<Abstract><AbstractText>Soft.</AbstractText></Abstract>").replace("<PMID>6</PMID>", "")
    (paper,), _ = read(tmp_path / "a.xml", whole(article))
    assert (paper.paper_id, paper.ids) == ("a.xml:1", {})


def test_any_byte_may_be_another(tmp_path: Path, damaged: Callable[[bytes, int], list[bytes]]) -> None:
    for data in damaged(whole(ARTICLE, BOOK), 150):
        papers, rejects = read(tmp_path / "a.xml", data)
        assert len(papers) + rejects.records + rejects.counts["input: empty file"] >= 1
