"""What a folder says about its files, in JSON lines or CSV."""

from __future__ import annotations

import json

import pytest

from codec_lm_hf.processing.metadata import read_metadata


def test_a_folder_without_metadata(tmp_path):
    assert read_metadata(tmp_path) is None


def test_json_keeps_its_types_and_blank_lines_do_not_count(tmp_path):
    rows = [{"file_name": "a.wav", "take": 3, "tags": ["x"]}, {"file_name": "b/c.wav", "text": "drei\u2028Sätze"}]
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "metadata.jsonl").write_text(lines, encoding="utf-8")
    assert read_metadata(tmp_path) == rows


def test_csv_is_text_with_quotes_line_breaks_and_a_byte_order_mark(tmp_path):
    text = 'file_name,text,take\na.wav,"one, ""two""\nthree",3\nb.wav,,\n'
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8-sig")
    assert read_metadata(tmp_path) == [
        {"file_name": "a.wav", "text": 'one, "two"\nthree', "take": "3"},
        {"file_name": "b.wav", "text": "", "take": ""},
    ]


@pytest.mark.parametrize("line", ["b.wav,too,many,fields", ",no name,", "b.wav"])
def test_a_csv_line_that_does_not_fit_is_named(tmp_path, line):
    (tmp_path / "metadata.csv").write_text(f"file_name,text,take\na.wav,x,1\n{line}\n")
    with pytest.raises(ValueError, match=r"metadata\.csv, line 3"):
        read_metadata(tmp_path)


def test_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,text,text\na.wav,raw,normalised\n")
    with pytest.raises(ValueError, match=r"metadata\.csv has two columns of one name \(file_name, text, text\)"):
        read_metadata(tmp_path)


@pytest.mark.parametrize("line", ['b.wav,"never closed,2\nc.wav,x,3', 'b.wav,"Well" he said,2'])
def test_quotation_marks_that_do_not_fit_swallow_no_rows(tmp_path, line):
    (tmp_path / "metadata.csv").write_text(f"file_name,text,take\na.wav,x,1\n{line}\n")
    with pytest.raises(ValueError, match=r"metadata\.csv, line \d is no CSV \(.*\); put a text with quotation marks"):
        read_metadata(tmp_path)


@pytest.mark.parametrize("line", ['{"file_name": 3}', "{", "[]", '{"text": "x"}'])
def test_a_json_line_without_a_file_is_named(tmp_path, line):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.wav"}\n' + line)
    with pytest.raises(ValueError, match=r"metadata\.jsonl, line 2.*file_name"):
        read_metadata(tmp_path)
