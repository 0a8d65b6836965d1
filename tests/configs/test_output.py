"""What reaches a terminal: no character that controls it, from whichever prompt, answer, error or name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import suite
from configs.output import echo, open_console, print_line, print_traceback, printable, say, styled
from tests.conftest import ROOT, record
from tests.metrics.conftest import write_run
from workloads.records import Sample

TITLE = "\x1b]0;owned\x07"  # renames a terminal's window
HOSTILE = f"a{TITLE}\r\x9b31m\u202eb\ud800\x7f[red]c[/]"
SHOWN = "a\\x1b]0;owned\\x07\\r\\x9b31m\\u202eb\\ud800\\x7f[red]c[/]"


def has_controls(text: str) -> bool:
    return any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c in "\u2028\u202e\u2066" for c in text)


def test_characters_that_control_a_terminal_are_shown_by_their_codes() -> None:
    assert printable(HOSTILE) == SHOWN
    assert all(
        printable(chr(c)) != chr(c) for c in (*range(9), *range(11, 32), *range(127, 160), 0x2028, 0x202A, 0x2069, 0x200B, 0xDFFF, 0xE0041)
    )
    plain = "two\nlines\tand caf\u00e9, \u65e5\u672c, \u0646, \U0001f468\u200d\U0001f469, 3 \u00d7 4\u00a0\u20ac"
    assert printable(plain) == plain


def test_lines_tables_and_tracebacks_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    say(HOSTILE)
    echo(HOSTILE)
    print_line({"run": HOSTILE})
    console, table = open_console(width=200), Table("run", HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE, styled(HOSTILE, "red"))
    console.print(table)
    console.print(styled(HOSTILE, "bold"), HOSTILE, sep="  ")
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        print_traceback(type(error), error, error.__traceback__)
    printed = capsys.readouterr()
    assert not has_controls(printed.out + printed.err)
    assert printed.err.startswith(f"suite: {SHOWN}\n")
    assert printed.out.splitlines()[0] == SHOWN
    assert json.loads(printed.out.splitlines()[1]) == {"run": HOSTILE}
    assert f"{SHOWN}  {SHOWN}\n" in printed.err
    assert printed.err.count(SHOWN) == 8
    assert f"ValueError: {SHOWN}\n" in printed.err


def test_a_run_of_hostile_texts_reports_compares_and_lists_printably(tmp_path: Path) -> None:
    hostile = HOSTILE.replace("\ud800", "")  # no file holds a lone surrogate
    samples = [Sample(i, f"{hostile} {i}", {"answer": hostile}) for i in range(8)]
    records = [record(i, text=f"{hostile} {i}", num_units=3) for i in range(7)]
    records.append(record(7, status="failed", error=hostile))
    folders = [
        write_run(tmp_path / f"{name} {TITLE.replace('/', '')}", samples, records, metrics=["exact_match"]) for name in ("one", "two")
    ]
    plugin = tmp_path / "metric.py"
    plugin.write_text(f"raise ValueError({hostile!r})", encoding="utf-8")
    one, two = map(str, folders)
    shown = ""
    for arguments in (
        ["report", one],
        ["compare", one, two, "--allow-invalid", "--output", str(tmp_path / "compare.html")],
        ["audit", one, two, "--margin", "0.1", "--allow-invalid", "--output", str(tmp_path / "audit.html")],
        ["report", f"absent{TITLE}"],
        ["list", f"absent{TITLE}"],
        [f"--option{TITLE}"],
        ["report", f"--option{TITLE}"],
        ["audit", one, two, f"--option{TITLE}"],
        [f"command{TITLE}"],
        ["--workload", f"t2v{TITLE}"],
        ["--set", f"pipeline.{TITLE}=1"],
        ["list", "--plugin", str(plugin)],
    ):
        done = CliRunner().invoke(suite.app, arguments)
        text = f"{done.stdout}{done.stderr}"
        if done.exception and not isinstance(done.exception, SystemExit):  # suite.main prints it
            text += printable(str(done.exception))
        assert not has_controls(text), arguments
        shown += text
    assert shown.count("\\x1b") >= 10


def test_what_python_prints_by_itself_is_printable() -> None:
    fail = (
        f"warnings.warn({HOSTILE!r})\n    thread = threading.Thread(target=int, args=[{HOSTILE!r}], name={HOSTILE!r})\n    thread.start()\n"
    )
    fail += f"    thread.join()\n    raise ValueError({HOSTILE!r})"
    script = f"import suite, sys, threading, warnings\n@suite.app.command()\ndef fail():\n    {fail}\nsys.argv[1:] = ['fail']\nsuite.main()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert not has_controls(done.stderr)
    assert f"UserWarning: {SHOWN}\n" in done.stderr
    assert f"suite: an error in thread {SHOWN}:\n" in done.stderr
    assert f"ValueError: {SHOWN}\n" in done.stderr
