"""Names chosen by others are harmless wherever they are shown."""

import csv
import io
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from triplex_deploy.files.escape import control_in, csv_cell, printable, short_repr, xml_text

ANY_TEXT = st.text(st.characters(), max_size=40) | st.sampled_from(
    ["\x1b]0;title\x07", "a\nerror: forged", "\u202egpj.exe", "caf\udce9.tif", "\uffff", "=1+1"]
)


@given(ANY_TEXT)
def test_terminal_and_log_get_one_line_without_controls(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(character) < 32 or 126 < ord(character) < 160 for character in shown)
    shown.encode("utf-8")


def test_readable_text_stays_as_it_is() -> None:
    for text in ("slide 1.svs", "µ日.tif", "a\u00a0b", "👩‍🔬"):
        assert printable(text) == text
    assert printable("a\tb\x1b[31m") == "a\\tb\\x1b[31m"


@given(ANY_TEXT)
def test_xml_parses(text: str) -> None:
    element = ElementTree.Element("a", name=xml_text(text))
    assert ElementTree.fromstring(ElementTree.tostring(element)).get("name") is not None


@given(ANY_TEXT)
def test_no_cell_is_a_formula(text: str) -> None:
    stream = io.StringIO()
    csv.writer(stream).writerow([csv_cell(text)])
    assert stream.getvalue().lstrip('"')[:1] not in set("=+-@\t")


def test_control_characters_of_names_are_found() -> None:
    assert control_in("A\x00B")
    assert control_in("A\nB")
    assert control_in("\uffff")
    assert not control_in("HLA-A*02:01 µ")


def test_representation_is_short_and_expands_no_alias() -> None:
    bomb: object = "x" * 1000
    for _ in range(40):
        bomb = [bomb] * 10
    assert len(short_repr(bomb)) <= 200
    assert short_repr("egn") == "'egn'"
    assert len(short_repr(10**5000)) <= 200
