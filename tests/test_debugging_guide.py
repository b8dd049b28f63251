"""docs/debugging.md: its Python and its commands run, and give what it says, numbers of milliseconds aside."""

import contextlib
import io
import linecache
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from twofold.compiler.pipeline import LATER, PASSES
from twofold.ir import config

TEXT = (Path(__file__).parents[1] / "docs" / "debugging.md").read_text()
BLOCKS = re.findall(r"```(python|sh)\n(.*?)```(?:\n\n```text\n(.*?)```)?", TEXT, re.DOTALL)
PROGRAM = BLOCKS[0][1]


def lines_of(text):
    """Its lines, with numbers and spaces made alike; those of results are kept as they are."""
    out = []
    for line in text.splitlines():
        line = re.sub(r"\S*train\.py\d*:\d+", "train.py", line.strip())
        if not re.match(r"loss |tensor|tracing|index|'mul'|\[detect", line):
            line = re.sub(r"[-+]?\d[\d.]*(e[-+]\d+)?", "#", line)
        out.append(re.sub(r"\s+", " ", line))
    return [line for line in out if line and line != "..."]


def require(shown, output):
    """Every line that is shown is in the output, in this order."""
    found = iter(lines_of(output))
    for line in lines_of(shown):
        assert line in found, f"{line!r} is not in the output, or not there:\n{output}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(PROGRAM)
    return tmp_path


def test_the_python_runs_and_prints_what_is_shown(folder):
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=RuntimeWarning)  # NumPy's, which the package ignores
        for number, (language, code, shown) in enumerate(BLOCKS):
            if language != "python":
                continue
            file = f"train.py{number}" if number else "train.py"
            linecache.cache[file] = (len(code), None, code.splitlines(True), file)
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(code, file, "exec"), names)
            require(shown, output.getvalue())
    assert (folder / "trace.json").stat().st_size > 10_000


@pytest.mark.skipif(sys.platform == "win32", reason="commands of a Unix shell")
@pytest.mark.parametrize("number", [i for i, (language, _, _) in enumerate(BLOCKS) if language == "sh"])
def test_the_commands_run_and_print_what_is_shown(number, folder):
    _, command, shown = BLOCKS[number]
    names = {k: v for k, v in os.environ.items() if not k.startswith("TWOFOLD_") or k == "TWOFOLD_CACHE_DIR"}
    command = command.replace("python ", f"'{sys.executable}' ")
    result = subprocess.run(["sh", "-c", command], env=names, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    require(shown, result.stderr + result.stdout)


def test_what_is_shown_is_not_nothing():
    assert sum(bool(lines_of(shown)) for _, _, shown in BLOCKS) >= 13
    assert sum(language == "sh" for language, _, _ in BLOCKS) >= 5


def test_all_settings_are_listed():
    assert set(re.findall(r"`(TWOFOLD_\w+)", TEXT)) == set(config.SETTINGS)


def test_all_passes_are_explained():
    (text,) = re.findall(r"^The passes are (.*?)\n\n", TEXT, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"`(\w+)`\s\(", text)) == {*LATER, *(p.__name__ for p in PASSES)}
