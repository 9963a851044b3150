"""The report: untrusted names, nothing loaded, numbers to the right."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from typing import get_args

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from evaluations.report.page import (
    Figure,
    Section,
    Sheet,
    Table,
    Verdict,
    VerdictKind,
    join_sections,
    printable,
    render_report,
)
from evaluations.report.sections import points

NASTY = "</title></pre><script>alert(1)</script>\"' onload='x' {{ 7 * 7 }} & 裂纹"
CHART = Markup('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 36"><text>a chart</text></svg>')
VOID = {"meta", "link", "img", "br", "circle", "path"}


class Elements(HTMLParser):
    """All elements with their attributes, and the text of the page; asserts that elements are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format="png")
    return buffer.getvalue()


def report_of(name: str, kind: VerdictKind = "helps") -> str:
    """A report in which every text is `name`."""
    figures = [Figure(name, CHART, name), Figure(name, png(30, 20))]
    table = Table([name, "IoU"], [[name, "0.5"], [name, 3]], name)
    sections = [Section(name, [name], [table], figures, [(name, name)]), Section(name)]
    return render_report(
        title=name,
        verdict=Verdict(kind, name, [name]),
        facts=[(name, name)],
        warnings=[name],
        sections=sections,
        footer=name,
    )


def test_names_are_text_everywhere() -> None:
    plain, nasty = Elements(report_of("plain")), Elements(report_of(NASTY))
    tags = [tag for tag, _ in plain.found]
    assert [tag for tag, _ in nasty.found] == tags
    assert "script" not in tags
    attributes = [set(values) for _, values in nasty.found]
    assert not any(key.startswith("on") for keys in attributes for key in keys)
    assert nasty.text.count(NASTY) == plain.text.count("plain")
    assert plain.text.count("plain") >= 18
    assert nasty.attributes("img")[0]["alt"] == NASTY


def test_every_picture_is_in_the_page() -> None:
    page = report_of("plain")
    elements = Elements(page)
    sources = [
        values[key] for _, values in elements.found for key in ("src", "srcset", "href", "data") if key in values
    ]
    assert len(sources) == 1 + 1 + 2  # picture, icon, contents
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert CHART in page
    assert not re.search(r"https?://|@import|url\(", page.replace(CHART, ""))
    (sheet,) = elements.attributes("img")
    assert base64.b64decode(sheet["src"].split(",", 1)[1]) == png(30, 20)
    assert (sheet["width"], sheet["height"]) == ("30", "20")


def test_a_chart_has_the_words_of_its_title() -> None:
    (chart,) = [values for values in Elements(report_of(NASTY)).attributes("div") if values.get("role") == "img"]
    assert chart["aria-label"] == NASTY


def test_links_of_the_contents_have_targets() -> None:
    elements = Elements(report_of("plain"))
    targets = {f"#{values['id']}" for _, values in elements.found if "id" in values}
    links = [values["href"] for values in elements.attributes("a")]
    assert len(links) == 2
    assert set(links) <= targets
    named = {f"#{values['aria-labelledby']}" for _, values in elements.found if "aria-labelledby" in values}
    assert named <= targets


@pytest.mark.parametrize("kind", get_args(VerdictKind))
def test_a_verdict_has_its_word_its_sign_and_its_color(kind: VerdictKind) -> None:
    page = report_of("plain", kind)
    assert f"Verdict: {kind}" in page
    look = f".{kind.replace(' ', '-')}"
    assert len(re.findall(rf"{look}\s*{{ --verdict-page", page)) == 2  # light and dark
    signs = {
        re.search(r'<svg class="sign".*?</svg>', report_of("x", other), re.S)[0] for other in get_args(VerdictKind)
    }
    assert len(signs) == len(get_args(VerdictKind))


def test_the_verdict_comes_first() -> None:
    page = report_of("plain")
    assert page.index('id="verdict"') < page.index('class="warnings"') < page.index('class="facts"')
    assert page.index('class="facts"') < page.index('class="contents"') < page.index('class="section"')


def test_an_empty_report() -> None:
    elements = Elements(render_report(title="t", verdict=Verdict("not measured", "h")))
    assert [tag for tag, _ in elements.found if tag in ("ul", "nav", "dl", "section", "footer")] == []


def test_equal_input_gives_an_equal_page() -> None:
    assert report_of(NASTY) == report_of(NASTY)


def test_what_utf8_cannot_hold_is_replaced() -> None:
    page = report_of("a\ud800b\x00c")
    page.encode()
    assert "a\ufffdb\ufffdc" in page
    assert printable("tab\tline\n裂纹 é \U0001f34b") == "tab\tline\n裂纹 é \U0001f34b"


def test_the_first_column_names_the_rows() -> None:
    table = Table(["arm", "mIoU"], [["real", "71.2"], ["mix", 69]])
    elements = Elements(render_report(title="t", verdict=Verdict("mixed", "h"), sections=[Section("s", [], [table])]))
    assert [values["scope"] for values in elements.attributes("th")] == ["col", "col", "row", "row"]
    assert len(elements.attributes("td")) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Verdict("maybe", "h"),
        lambda: Table(["a"], [["b", "c"]]),
        lambda: Figure("", CHART),
        lambda: Figure("t", b"GIF89a"),
    ],
)
def test_our_own_mistakes_are_found(wrong) -> None:
    with pytest.raises(AssertionError):
        wrong()


def test_sections_of_one_heading_are_joined_where_the_first_stands() -> None:
    table = Table(["a"], [[1]])
    found = join_sections([Section("A", ["1"]), Section("B"), Section("A", ["2"], [table], details=[("t", "x")])])
    assert [section.heading for section in found] == ["A", "B"]
    assert found[0] == Section("A", ["1", "2"], [table], [], [("t", "x")])


def test_a_sheet_is_drawn_two_groups_a_row() -> None:
    image, label = np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.int64)
    sheet = Sheet("Samples", [(image, label)] * 3, ("real", "mask"), "caption")
    assert [len(row) for row in sheet.rows] == [4, 2]
    assert sheet.column_titles == ("real", "mask", "real", "mask")
    assert Sheet("One", [(image,)], ("sample",)).column_titles == ("sample",)
    assert len(sheet.labels) == 3
    seen = []

    def draw(given: Sheet) -> bytes:
        seen.append(given)
        return png(7, 5)

    page = render_report(title="t", verdict=Verdict("helps", "h"), sections=[Section("S", figures=[sheet])], draw=draw)
    assert seen == [sheet]
    for part in ("<h3>Samples</h3>", "<figcaption>caption</figcaption>", 'width="7" height="5"'):
        assert part in page


@pytest.mark.parametrize(("share", "shown"), [(-0.0004, "+0.0"), (-0.0006, "-0.1"), (0.1234, "+12.3"), (None, "–")])
def test_differences_have_a_sign_but_none_of_nothing(share, shown):
    assert points(share) == shown
