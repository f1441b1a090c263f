"""Tables print their rows in columns, as text and as HTML, numbers to the right."""

from klrp.tables import Table

TABLE = Table(("step", "share"), (("fc<1>", 0.123456), ("x", 2.0)))


def test_a_table_is_a_sequence_of_rows():
    assert len(TABLE) == 2 and TABLE[1] == ("x", 2.0) and list(TABLE) == list(TABLE.rows)


def test_as_text_the_columns_are_aligned():
    assert str(TABLE).splitlines() == ["step   share", "fc<1>  0.1235", "x      2"]


def test_as_html_texts_are_escaped_and_numbers_stand_to_the_right():
    html = TABLE._repr_html_()
    assert "fc&lt;1&gt;" in html and "<1>" not in html
    assert html.count("text-align:right") == html.count("text-align:left") == 3


def test_an_empty_table_shows_its_columns():
    assert "step" in str(Table(("step",), ())) and "step" in Table(("step",), ())._repr_html_()
