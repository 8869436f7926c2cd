"""Every way in which a data file can be bad is one line that names the file, the line and what was expected."""

import pytest

from common.data.records import Record, read_csv, read_json, read_jsonl, read_text
from common.errors import DataUnavailable


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith("how to get it.")
    return message


def test_navigation():
    record = Record({"a": [{"b": "x", "n": 3, "d": "12"}]}, "file.json", "line 2")
    inner = record["a"].list()[0]
    assert (inner["b"].text(), inner["n"].integer(), inner["d"].integer()) == ("x", 3, 12)
    assert inner.get("absent").value is None
    assert inner["b"].trail == "a[0].b"


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda r: r["c"], "f, line 2, c: expected a value for 'c', found nothing"),
        (lambda r: r["a"]["b"], "f, line 2, a: expected an object with 'b', found list [1, None, ' ', True]"),
        (lambda r: r["a"].list()[1].text(), "f, line 2, a[1]: expected a string, found nothing"),
        (lambda r: r["a"].list()[2].filled_text(), "a[2]: expected a string that is not blank, found str ' '"),
        (lambda r: r["a"].list()[3].integer(), "a[3]: expected a whole number, found bool True"),
        (lambda r: r["a"].texts(), "a[0]: expected a string, found int 1"),
        (lambda r: r["s"].list(), "s: expected a list, found str 'text'"),
        (lambda r: r["s"].choice(("yes", "no")), "s: expected one of yes, no, found str 'text'"),
    ],
)
def test_wrong_values(read, message):
    with pytest.raises(DataUnavailable) as caught:
        read(Record({"a": [1, None, " ", True], "s": "text"}, "f", "line 2"))
    assert message in one_line(caught)


def test_missing_file(tmp_path):
    for read in (read_text, read_json, read_jsonl, lambda path: read_csv(path, ["a"])):
        with pytest.raises(DataUnavailable, match=r"nowhere\.x does not exist"):
            read(tmp_path / "nowhere.x")
    with pytest.raises(DataUnavailable, match="cannot be read"):
        read_text(tmp_path)


def test_not_utf8(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(DataUnavailable) as caught:
        read_text(path)
    assert "latin.txt: byte 3 is not UTF-8" in one_line(caught)


def test_broken_json_names_the_line(tmp_path):
    whole, lines = tmp_path / "a.json", tmp_path / "b.jsonl"
    whole.write_text('{\n "a": 1,\n "b" 2}')
    with pytest.raises(DataUnavailable) as caught:
        read_json(whole)
    assert "a.json, line 3, column 6: not JSON" in one_line(caught)
    lines.write_text('{"a": "\u2028"}\n\n{"a": 1\n')
    rows = read_jsonl(lines)
    assert next(rows)["a"].text() == "\u2028"  # one line, though str.splitlines would cut it
    with pytest.raises(DataUnavailable) as caught:
        next(rows)
    assert "b.jsonl, line 3, column" in one_line(caught)


def test_csv_with_byte_order_mark_and_fields_over_several_lines(tmp_path):
    path = tmp_path / "q.csv"
    path.write_bytes('\ufeffQ,A\r\n"first\r\nsecond","say ""hi"""\r\nplain,x\r\n'.encode())
    rows = list(read_csv(path, ["Q", "A"]))
    assert [(row["Q"].text(), row["A"].text(), row.place) for row in rows] == [
        ("first\nsecond", 'say "hi"', "line 2"),
        ("plain", "x", "line 4"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Q,B\n1,2\n", "line 1: no column 'A' among Q, B"),
        ("", "line 1: no column 'Q' among none"),
        ("Q,A\n1,2\n1,2,3\n", "line 3: expected 2 fields, found list ['1', '2', '3']"),
        ('Q,A\n1,2\n3,"open\n', "line 3: unexpected end of data"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    path = tmp_path / "q.csv"
    path.write_text(text)
    with pytest.raises(DataUnavailable) as caught:
        list(read_csv(path, ["Q", "A"]))
    assert message in one_line(caught)
