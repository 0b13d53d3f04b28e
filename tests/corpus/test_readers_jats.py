"""PubMed Central's full texts: the markup says what is title, text, citation, figure, table, reference and back matter."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.records import Paper, Rejects
from megabiomed.ground.errors import DataError

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD JATS (Z39.96) Archiving DTD v1.3 20210610//EN" "JATS-archivearticle1-3.dtd">
"""
META = """<front><journal-meta><journal-title>Beds</journal-title></journal-meta><article-meta>
<article-id pub-id-type="pmid">5</article-id><article-id pub-id-type="pmcid">PMC12</article-id>
<article-id pub-id-type="doi">10.1/x</article-id>
<title-group><article-title>On <italic>sleep</italic><fn><p>A note.</p></fn></article-title></title-group>
<contrib-group><contrib><name><surname>Author</surname></name></contrib></contrib-group>
<author-notes><fn fn-type="con"><p>They all slept.</p></fn></author-notes>
<pub-date pub-type="ppub"><year>2012</year></pub-date><pub-date pub-type="epub"><year>2011</year></pub-date>
<permissions><license xlink:href="https://creativecommons.org/licenses/by-nc/4.0/"><license-p>Free.</license-p></license>
</permissions>
<abstract><sec><title>Aims:</title><p>We wanted
   to sleep.</p></sec><sec><title>Results</title><p>We did.</p></sec></abstract>
<abstract abstract-type="graphical"><p>A picture.</p></abstract><trans-abstract><p>Schlaf.</p></trans-abstract>
</article-meta></front>"""
BODY = """<body><sec id="s1"><label>1</label><title>Methods</title>
<p>We slept [<xref ref-type="bibr" rid="B1">1</xref>–<xref ref-type="bibr" rid="B2">2</xref>] in beds<sup><xref
ref-type="bibr" rid="B1">1</xref>,<xref ref-type="bibr" rid="B2">2</xref></sup> for 10<sup>3</sup> s
(<xref ref-type="fig" rid="F1">Figure 1</xref>, <xref ref-type="table" rid="T1">Table 1</xref>) &alpha;.<fn><p>No.</p></fn>
<disp-formula id="E1"><label>(1)</label><mml:math>
<mml:mi>t</mml:mi><mml:mo>=</mml:mo><mml:mn>3</mml:mn></mml:math></disp-formula>
where <inline-formula><alternatives><tex-math>\\documentclass{x}\\begin{document}$$t$$\\end{document}</tex-math>
<mml:math><mml:mi>t</mml:mi></mml:math></alternatives></inline-formula> is time.
<fig id="F1"><label>Figure 1</label><caption><title>A bed.</title><p>It is soft.</p></caption><graphic xlink:href="f"/></fig>
Then we woke. <list><list-item><p>Item one.</p></list-item><list-item><p>Item two.</p></list-item></list></p>
<table-wrap id="T1"><label>Table 1</label><caption><p>Hours.</p></caption><table><tr><th>Bed</th><th>Hours</th></tr>
<tr><td>A</td><td>8</td></tr></table></table-wrap>
<sec><title>Beds</title><p>Soft ones.</p></sec></sec>
<sec sec-type="COI-statement"><title>Interests</title><p>We own beds.</p></sec>
<sec sec-type="supplementary-material"><title>More</title><p>A file.</p></sec></body>"""
BACK = """<back><ack><title>Acknowledgements</title><p>We thank the bed.</p></ack>
<sec><title>Authors’ contributions</title><p>A slept.</p></sec>
<fn-group><fn fn-type="financial-disclosure"><p>Paid by beds.</p></fn><fn><p>Some note.</p></fn></fn-group>
<glossary><p>REM</p></glossary>
<ref-list><title>References</title><ref id="B1"><label>1</label><element-citation><name><surname>Nurmi</surname>
<given-names>P</given-names></name><article-title>On running</article-title>.<year>1924</year></element-citation></ref>
<ref id="B2"><mixed-citation>Strolz H. On walking.</mixed-citation></ref></ref-list></back>"""
SPACES = 'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:mml="http://www.w3.org/1998/Math/MathML"'
REVIEW = "<sub-article><body><p>A review.</p></body></sub-article>"
ARTICLE = f'<article {SPACES} article-type="research-article">{META}{BODY}{BACK}{REVIEW}</article>'
WHOLE = (HEAD + ARTICLE).encode()
CLEAN = """On sleep

Aims: We wanted to sleep.

Results: We did.

Methods

We slept in beds for 10^3 s (Figure 1, Table 1) α. t = 3 where t is time.

Then we woke.

Item one.

Item two.

Beds

Soft ones."""


def read(path: Path, data: bytes) -> tuple[list[Paper], Rejects]:
    path.write_bytes(data)
    rejects = Rejects()
    return list(read_papers(path, rejects=rejects)), rejects


def article(number: int) -> bytes:
    return WHOLE.replace(b"PMC12", f"PMC{number}".encode())


def test_an_article_is_told_apart_by_its_markup(tmp_path: Path) -> None:
    (paper,), rejects = read(tmp_path / "PMC12.nxml", WHOLE)
    assert (paper.paper_id, paper.ids) == ("PMC12", {"pmc": "12", "pubmed": "5", "doi": "10.1/x"})
    assert (paper.title, paper.year, paper.licence) == ("On sleep", 2011, "cc-by-nc")
    marked = {name: [paper.text[s.start : s.end] for s in spans] for name, spans in paper.spans.items()}
    assert marked["abstract"] == ["Aims: We wanted to sleep.", "Results: We did."]
    assert marked["sectionheader"] == ["Methods", "Beds", "References"]
    assert marked["bibref"] == ["1", "2", "1", "1,2", "2"]
    assert marked["figureref"] + marked["tableref"] == ["Figure 1", "Table 1"]
    assert marked["formula"] == ["t = 3 "]
    assert marked["figure"] == ["Figure 1 A bed. It is soft."]
    assert marked["table"] == ["Table 1 Hours.\nBed | Hours\nA | 8"]
    assert marked["conflicts"] == ["Interests", "We own beds."]
    assert marked["acknowledgements"] == ["Acknowledgements", "We thank the bed."]
    assert marked["contributions"] == ["Authors’ contributions", "A slept."]
    assert marked["funding"] == ["Paid by beds."]
    assert marked["bibtitle"] + marked["bibauthorlastname"] == ["On running", "Nurmi"]
    assert [span.attributes["id"] for span in paper.spans["bibentry"]] == ["B1", "B2"]
    for unread in ("picture", "Schlaf", "Author\n", "They all", "note", "REM", "A file", "review", "journal", "No."):
        assert unread not in paper.text
    assert not rejects.counts


def test_the_cleaning_rules_are_those_of_every_layout(tmp_path: Path) -> None:
    (paper,), _ = read(tmp_path / "PMC12.nxml", WHOLE)
    assert clean(paper, CleanRules(min_words=1), Counter()) == CLEAN
    rules = CleanRules(min_words=1, back_matter=False, back_matter_headers=False, back_matter_phrases=False)
    rules = replace(rules, formulas=True, mark_citations=True)
    kept = clean(paper, rules, Counter())
    assert kept is not None
    assert "We thank the bed." in kept
    assert "t = 3" not in kept
    assert "[bib_ref] On running, Nurmi [/bib_ref]" in kept


@pytest.mark.parametrize(
    "wrap", ["<pmc-articleset>{}</pmc-articleset>", "<OAI-PMH xmlns='u'><record>{}</record></OAI-PMH>"]
)
def test_many_articles_in_one_file_are_papers_of_their_own(tmp_path: Path, wrap: str) -> None:
    data = wrap.format(ARTICLE + "\n" + ARTICLE.replace("PMC12", "PMC13")).replace("&alpha;", "a").encode()
    papers, rejects = read(tmp_path / "set.xml.gz", gzip.compress(data))
    assert [(p.paper_id, p.line) for p in papers] == [("PMC12", 1), ("PMC13", 2)]
    assert all(data[p.offset :].startswith(b"<article") for p in papers)
    assert not rejects.counts


def test_an_article_without_ids_or_text(tmp_path: Path) -> None:
    (paper,), _ = read(tmp_path / "a.xml", b"<article><body><p>Words.</p></body></article>")
    assert (paper.paper_id, paper.ids, paper.title, paper.year) == ("a.xml:1", {}, "", None)
    for empty in ("<article/>", f"<article {SPACES}>{META.partition('<abstract')[0]}</article-meta></front></article>"):
        papers, rejects = read(tmp_path / "a.xml", empty.encode())
        assert not papers
        assert rejects.counts == {"record: text is empty": 1}


def bulk(folder: Path, members: dict[str, bytes]) -> Path:
    """A bulk package as PubMed Central names it."""
    path = folder / "oa_comm_xml.PMC000xxxxxx.baseline.2024-06-18.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(f"PMC000xxxxxx/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


LIST = """Article File,Article Citation,AccessionID,LastUpdated (YYYY-MM-DD HH:MM:SS),PMID,License,Retracted
PMC000xxxxxx/PMC1.xml,"Beds. 2011; 1(1):1",PMC1,"2024-02-07 23:35:31",51,"CC BY",no
PMC000xxxxxx/PMC2.xml,"Beds. 2011; 1(1):2",PMC2,"2024-02-07 23:35:31",0,"CC0",no
PMC000xxxxxx/PMC3.xml,"Beds. 2011; 1(1):3",PMC3,,,,
"""


def test_a_bulk_package_is_read_with_the_licences_of_its_list(tmp_path: Path) -> None:
    without_pmid = article(1).replace(b'<article-id pub-id-type="pmid">5</article-id>', b"")
    members = {
        "PMC1.xml": without_pmid, "PMC2.xml": article(2), "broken.xml": article(9)[:900], "PMC3.xml": article(3),
        "f.jpg": b"\xff\xd8\xff", "PMC4.xml": article(4),
    }  # fmt: skip
    path = bulk(tmp_path, members)
    (tmp_path / path.name.replace(".tar.gz", ".filelist.csv")).write_text(LIST)
    rejects = Rejects()
    papers = list(read_papers(path, rejects=rejects))
    assert [(p.paper_id, p.licence, p.ids["pubmed"], p.line) for p in papers] == [
        ("PMC1", "cc-by", "51", 1), ("PMC2", "cc0", "5", 2), ("PMC3", "cc-by-nc", "5", 3), ("PMC4", "cc-by-nc", "5", 4),
    ]  # fmt: skip
    unpacked = gzip.decompress(path.read_bytes())
    assert all(unpacked[p.offset :].startswith(b"<article") for p in papers)
    assert rejects.counts == {"record: damaged XML": 1, "input: archive member that is neither XML nor JSON": 1}
    assert "broken.xml" in rejects.samples["record: damaged XML"][0]


def test_a_file_list_that_is_none_is_refused(tmp_path: Path) -> None:
    path = bulk(tmp_path, {"PMC1.xml": article(1)})
    (tmp_path / path.name.replace(".tar.gz", ".filelist.txt")).write_text("a\tb\n1\t2\n")
    with pytest.raises(DataError, match="is no file list of PubMed Central: got a, b, expected columns AccessionID"):
        list(read_papers(path))


def test_a_package_that_was_cut_off_or_damaged_gives_the_papers_before(tmp_path: Path) -> None:
    noise = random.Random(0)
    members = {f"PMC{n}.xml": article(n) + f"<!--{noise.randbytes(50_000).hex()}-->".encode() for n in range(1, 5)}
    path = bulk(tmp_path, members)
    whole = path.read_bytes()
    for data in (whole[: len(whole) * 2 // 3], whole[:-30_000] + b"\xff" * 30_000):
        path.write_bytes(data)
        rejects = Rejects()
        papers = list(read_papers(path, rejects=rejects))
        assert 0 < len(papers) < 5
        assert {"input: truncated gzip", "input: damaged gzip"} & rejects.counts.keys()


def test_any_byte_may_be_another(tmp_path: Path, damaged: Callable[[bytes, int], list[bytes]]) -> None:
    for data in damaged(WHOLE, 200):
        papers, rejects = read(tmp_path / "a.nxml", data)
        assert len(papers) + rejects.records + rejects.counts["input: empty file"] >= 1
