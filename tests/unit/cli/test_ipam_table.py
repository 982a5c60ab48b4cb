"""Tables: aligned, and no wider than the terminal as far as columns may be shortened."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from muslin.cli.ipam.table import Column, Look, table

COLUMNS = [Column("NAME", shrink=True), Column("COUNT", right=True), Column("DETAIL", shrink=True)]
texts = st.text("abc/-", max_size=60)


def test_columns_are_aligned_and_lines_have_no_trailing_blanks() -> None:
    assert table(COLUMNS, [["a", "1", "x"], ["longer", "12345678", ""]], Look()) == (
        "NAME       COUNT  DETAIL\n"
        "a              1  x\n"
        "longer  12345678")


def test_the_widest_column_is_shortened_first_and_says_so() -> None:
    rows = [["a" * 12, "7", "b" * 40]]
    assert table(COLUMNS, rows, Look(width=40)) == (
        "NAME          COUNT  DETAIL\n" + "a" * 12 + "      7  " + "b" * 18 + "…")
    assert table(COLUMNS, rows, Look(width=40, unicode=False)).endswith("b~")


def test_without_a_terminal_nothing_is_shortened() -> None:
    assert "b" * 400 in table(COLUMNS, [["a", "7", "b" * 400]], Look())


@given(st.lists(st.tuples(texts, st.integers(0, 99999).map(str), texts), min_size=1, max_size=5), st.integers(30, 200))
def test_a_table_fits_whenever_it_can(rows: list[tuple[str, str, str]], width: int) -> None:
    """30 columns are enough for the least widths of all three."""
    assert sum(column.least for column in COLUMNS if column.shrink) + len("COUNT") + 4 <= 30
    assert max(map(len, table(COLUMNS, rows, Look(width=width)).splitlines())) <= width


def test_paint_gets_the_row_and_the_aligned_cell_and_only_in_colour() -> None:
    seen = []

    def paint(row: int, cell: str) -> str:
        seen.append((row, cell))
        return f"<{cell}>"

    columns = [Column("NAME", paint=paint), Column("N")]
    assert table(columns, [["a", "1"], ["bb", "2"]], Look()) == "NAME  N\na     1\nbb    2"
    assert table(columns, [["a", "1"], ["bb", "2"]], Look(colour=True)) == "NAME  N\n<a   >  1\n<bb  >  2"
    assert seen == [(0, "a   "), (1, "bb  ")]


def test_what_can_be_spared_is_left_out_only_when_nothing_else_helps() -> None:
    columns = [Column("NAME", shrink=True, least=4), Column("FIRST", spare=True), Column("SECOND", spare=True)]
    rows = [["abcdefgh", "1", "2"]]
    assert table(columns, rows, Look(width=20)) == "NAME   FIRST  SECOND\nabcd…  1      2"
    assert table(columns, rows, Look(width=17)) == "NAME FIRST SECOND\nabc… 1     2"
    assert table(columns, rows, Look(width=16)) == "NAME      FIRST\nabcdefgh  1"
    assert table(columns, rows, Look(width=4)) == "NAME\nabc…"
