"""A table says the same in every format, and text from data stays text."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness.console import Console
from harness.visible import clean
from reports.tables.table import Cell, Column, Part, Row, Table, latex_document
from reports.text import (
    Document,
    escape_latex,
    escape_markdown,
    heading,
    lines,
    paragraph,
    text_table,
)

NASTY = "50% & $5_a #1 {x} ~ ^ \\ | \"q\" `c` <script>alert(1)</script> [a](b) *b*\x1b[31m\x00\n'--' Zürich 漢 −1"


def table(text: str = "GRPO", rows: int = 2) -> Table:
    columns = (
        Column("Method", ("method",), align="left"),
        Column("Avg", ("avg", "sd"), "{:.1f} ± {:.1f}"),
        Column("Difference\n[95% interval]", ("diff", "low", "high"), "{:+.1f} [{:.1f}, {:.1f}]"),
        Column("n", light=True),
    )
    first = Row((Cell((text,)), Cell((35.4, 1 / 3), bold=True), Cell((-1.25, -2.5, 0.1), mark="*"), Cell((7,))))
    other = (Cell((f"[{text}",)), Cell((None, float("nan"))), Cell((None, None, None)), Cell((None,), note=text))
    return Table(text, columns, (first, *[Row(other, "Apart")] * (rows - 1)), caption=text, footnotes=(text,))


def terminal(content: Table, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(content)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_clean_keeps_one_printable_line() -> None:
    assert clean("a\x1b[31mb\x00\r\n\tc\u202e\u200b") == r"a\x1b[31mb\x00 c\u202e\u200b"


def test_latex_escapes_every_special_character() -> None:
    specials = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
    specials |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    for character, escaped in specials.items():
        assert escape_latex(f"a{character}b") == f"a{escaped}b"
    assert escape_latex("Zürich 漢 --") == "Zürich U+6F22 -{}-"


def test_markdown_escapes_markup_pipes_and_html() -> None:
    assert escape_markdown("a|b_c*d`e") == r"a\|b\_c\*d\`e"
    assert escape_markdown("<b>&amp;") == "&lt;b&gt;&amp;amp;"
    assert escape_markdown("[a](b) [^1] [1.0, 2.0] p <0.05") == r"[a\](b) \[^1] [1.0, 2.0] p <0.05"


def test_markdown_has_the_same_number_of_cells_in_every_line() -> None:
    lines = [line for line in table(NASTY).to_markdown().splitlines() if line.startswith("|")]
    assert len(lines) == 5  # head, rule, row, group, row
    for line in lines:
        assert line.replace(r"\|", "").count("|") == 5
    assert "<script" not in table(NASTY).to_markdown()


def test_markdown_shows_bold_marks_notes_and_missing_values() -> None:
    text = table().to_markdown()
    assert "**35.4 ± 0.3**" in text
    assert r"-1.2 [-2.5, 0.1]\*" in text
    assert "| *Apart*" in text
    assert "-<sup>1</sup>" in text and "<sup>1</sup> GRPO" in text
    assert table(rows=1).to_markdown().count("Apart") == 0


def test_csv_round_trip_keeps_full_precision_and_text() -> None:
    back = pd.read_csv(io.StringIO(table('a, "b" | c').to_csv()))
    assert list(back) == ["group", "method", "avg", "sd", "diff", "low", "high", "n"]
    assert back["method"].tolist() == ['a, "b" | c', '[a, "b" | c']
    assert back.loc[0, ["avg", "sd", "diff", "low", "high", "n"]].tolist() == [35.4, 1 / 3, -1.25, -2.5, 0.1, 7]
    assert back.loc[1, ["avg", "sd", "diff", "n"]].isna().all()
    assert ",7\n" in table().to_csv()  # a whole number stays one


def test_csv_text_is_never_a_formula() -> None:
    assert "'=1+1" in table("=1+1").to_csv()


def test_json_says_null_for_missing_and_escapes_nothing_away() -> None:
    content = json.loads(table(NASTY).to_json())
    assert content["rows"][0]["method"] == clean(NASTY) == content["title"]
    assert content["rows"][0]["sd"] == 1 / 3
    assert content["rows"][1]["sd"] is None and content["rows"][1]["group"] == "Apart"


def test_terminal_ignores_markup_and_wraps_columns_into_blocks() -> None:
    shown = terminal(table("[bold red]x[/]"), 200)
    assert "[bold red]x[/]" in shown and "+" not in shown.split("35.4")[0]
    assert shown.count("Method") == 1
    narrow = terminal(table("GRPO"), 40)
    assert narrow.count("Method") > 1 and "-1.2 [-2.5, 0.1]*" in narrow
    assert all(len(line) <= 40 for line in narrow.splitlines())
    assert "\x1b" not in terminal(table(NASTY), 400)


def test_rows_must_fit_the_columns() -> None:
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table("t", (Column("a"), Column("b")), (Row((Cell((1,)),)),))
    with pytest.raises(ValueError, match="does not fit"):
        Table("t", (Column("a"),), (Row((Cell((1, 2)),)),))
    with pytest.raises(ValueError, match="repeat"):
        Table("t", (Column("a"), Column("a")), ())


def test_an_empty_table_is_written_in_every_format() -> None:
    empty = Table("t", (Column("a"), Column("b")), ())
    assert "| a" in empty.to_markdown() and r"\toprule" in empty.to_latex()
    assert empty.to_csv() == "a,b\n" and json.loads(empty.to_json())["rows"] == []
    assert "a" in terminal(empty, 80)


def test_latex_bold_marks_and_signs() -> None:
    source = table().to_latex()
    assert r"\textbf{35.4{\scriptsize\,$\pm$0.3}}" in source
    assert r"$-$1.2 [$-$2.5, 0.1]\textsuperscript{*}" in source
    assert r"\textcolor{gray}{7}" in source
    assert "{}[GRPO" in source  # else \\ takes it for its argument


def test_long_tables_go_on_in_further_tables_with_the_notes_at_the_end() -> None:
    source = table(rows=80).to_latex()
    assert source.count(r"\begin{table*}") == 3 and source.count(r"\toprule") == 3
    assert source.count(", continued.") == 2 and source.count(r"\textsuperscript{1}\,GRPO") == 1
    assert source.count("[GRPO &") == 79
    sizes = [part.count("& ") for part in source.split(r"\clearpage")]
    assert max(sizes) - min(sizes) <= 6  # evenly


def test_a_wide_table_is_read_in_parts_and_stored_whole() -> None:
    whole = table()
    aside = Part("aids", "What they mean.")
    columns = (*whole.columns[:2], replace(whole.columns[2], part=aside), replace(whole.columns[3], part=aside))
    wide = replace(whole, columns=columns)
    first, second = wide.parts
    assert [c.header for c in first.columns] == ["Method", "Avg"] and first.caption == "GRPO"
    assert [c.header for c in second.columns] == ["Method", "Difference\n[95% interval]", "n"]
    assert (second.title, second.caption, second.footnotes) == ("GRPO: aids", "What they mean.", ())
    assert wide.to_csv() == whole.to_csv() and json.loads(wide.to_json())["caption"] == "GRPO What they mean."
    markdown, source = wide.to_markdown(), wide.to_latex()
    assert markdown.count("### ") == 2 == source.count(r"\begin{table*}")
    assert markdown.index(" Avg ") < markdown.index("### GRPO: aids") < markdown.index("Difference [95% interval]")
    assert whole.parts == [whole] and "What they mean." in terminal(wide, 120)


def test_named_columns_without_any_value_are_left_out() -> None:
    whole = table()
    empty = replace(whole, rows=tuple(replace(row, cells=(*row.cells[:3], Cell((None,)))) for row in whole.rows))
    assert empty.without_empty("avg") == empty and whole.without_empty("n", "diff") == whole
    assert [c.header for c in empty.without_empty("n").columns] == [c.header for c in whole.columns[:3]]


def test_rows_that_are_not_ours_are_lighter() -> None:
    content = table()
    light = Table("t", content.columns, tuple(Row(row.cells, row.group, light=True) for row in content.rows))
    assert light.to_latex().count(r"\textcolor{gray}") == 8 and content.to_latex().count(r"\textcolor{gray}") == 2


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_with_hostile_text(tmp_path: Path) -> None:
    printable = "".join(map(chr, (*range(32, 127), *range(160, 384))))
    fragments = [table(text).to_latex() for text in (NASTY, printable, "[")] + [table("*", rows=40).to_latex()]
    (tmp_path / "tables.tex").write_text(latex_document(fragments), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert "Missing character" not in log and "3 pages" in log and "Float too large" not in log


def document() -> Document:
    listing = lines("list", [NASTY, "second"])
    grid = text_table((NASTY, "n"), ("[*", NASTY), align="lr")
    return Document(NASTY, [heading(NASTY), paragraph("One.", "", NASTY), listing, lines("code", [NASTY]), grid])


def test_a_document_has_every_kind_of_block_in_markdown() -> None:
    text = document().to_markdown()
    assert text.startswith("# 50% &amp; ") and "\n## 50% &amp; " in text and "\n\nOne. 50% &amp; " in text
    assert "\n- second\n" in text and "\n    50% & $5" in text and "-:|\n| [\\*" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_a_document_compiles_with_hostile_text(tmp_path: Path) -> None:
    head = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,tabularx}\\begin{document}\n"
    (tmp_path / "text.tex").write_text(f"{head}{document().to_latex()}\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "text.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
