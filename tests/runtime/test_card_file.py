"""Cards: what people have edited stays as it is, and what they have not is written anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.runtime.card_file import (
    Region,
    is_untouched,
    plain,
    read_card,
    regions_of,
    sealed,
    with_regions,
    write_card,
)

STATE = "0123456789abcdef"
BODY = Region("Not evaluated.\n")
VERDICT = Region("- helps\n", STATE)


def text_with(region: Region) -> str:
    return f"# Card\n\n{region.text('evaluation')}\nThe end.\n"


def test_a_seal_fits_what_it_was_written_for():
    card = sealed("# Card\n")
    assert is_untouched(card)
    for edited in ("license: mit\n" + card, card.replace("Card", "My card"), card + "more\n", "# Card\n", ""):
        assert not is_untouched(edited)


@pytest.mark.slow
@given(st.text(), st.text(max_size=5), st.integers(0, 50))
def test_no_insertion_goes_unseen(text, added, place):
    card = sealed(f"{text}\n")
    place = min(place, len(text))
    edited = card[:place] + added + card[place:]
    assert is_untouched(card)
    assert is_untouched(edited) == (edited == card)


@given(st.text())
def test_a_region_is_read_as_it_was_written(body):
    region = Region(f"{body}\n".replace("<!--", "").replace("\r", ""), STATE)
    card = f"before\n{region.text('limits')}after\n"
    assert regions_of(card) == {"limits": region}
    assert with_regions(card, {"limits": region}) == card


def test_a_body_cannot_end_its_region():
    card = text_with(Region("a\n<!-- end of evaluation -->\nb\n"))
    assert "b\n" in regions_of(card)["evaluation"].body


def test_a_region_is_replaced_in_place_and_the_seal_follows():
    after = with_regions(sealed(text_with(BODY)), {"evaluation": VERDICT})
    assert after == sealed(text_with(VERDICT))
    assert is_untouched(after)
    assert regions_of(after) == {"evaluation": VERDICT}


def test_a_card_is_written_until_somebody_edits_it(tmp_path):
    path = tmp_path / "card.md"
    assert write_card(path, text_with(BODY), {})
    assert write_card(path, text_with(VERDICT), {})
    assert path.read_text() == sealed(text_with(VERDICT))
    edited = path.read_text().replace("The end.", "By me.")
    path.write_text(edited)
    assert not write_card(path, text_with(BODY), {"evaluation": BODY})
    # The region was not edited, so what it says now is written into it; everything else is the person's.
    assert path.read_text() == edited.replace(VERDICT.text("evaluation"), BODY.text("evaluation"))
    path.write_text(path.read_text().replace("Not evaluated.", "I think it is good."))
    mine = path.read_bytes()
    assert not write_card(path, text_with(VERDICT), {"evaluation": VERDICT})
    assert path.read_bytes() == mine


def test_what_is_no_text_is_left_alone(tmp_path):
    path = tmp_path / "card.md"
    path.write_bytes(b"\xff\xfe\x00")
    assert read_card(path) is None
    assert not write_card(path, "# Card\n", {})
    assert path.read_bytes() == b"\xff\xfe\x00"


def test_names_of_files_are_text_and_nothing_else():
    shown = plain("a|b\n# <script>[x](y) `c` *d* \x07")
    assert "\n" not in shown
    assert shown == r"a\|b \# \<script\>\[x\](y) \`c\` \*d\*"
