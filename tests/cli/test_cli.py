"""The command line as a person uses it."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import zlib

import pytest
from PIL import Image, ImageDraw

from twofold.vision.digits import picture_to_input

STROKES = {  # how people draw: corners of lines in a unit square, x to the right and y down
    "0": [[(0.5, 0.1), (0.3, 0.3), (0.3, 0.7), (0.5, 0.9), (0.7, 0.7), (0.7, 0.3), (0.5, 0.1)]],
    "1": [[(0.4, 0.25), (0.55, 0.1), (0.55, 0.9)]],
    "4": [[(0.55, 0.1), (0.3, 0.6), (0.75, 0.6)], [(0.6, 0.4), (0.6, 0.9)]],
    "7": [[(0.3, 0.1), (0.7, 0.1), (0.45, 0.9)], [(0.35, 0.5), (0.65, 0.5)]],
}


def twofold(*args, cwd):
    return subprocess.run(
        [sys.executable, "-c", "from twofold.cli import main; main()", *map(str, args)],
        cwd=cwd, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip


def draw(digit, path, *, size=160, ink=0, paper=255, width=12):
    picture = Image.new("L", (size, size), paper)
    pen = ImageDraw.Draw(picture)
    for line in STROKES[digit]:
        pen.line([(x * size, y * size) for x, y in line], fill=ink, width=width, joint="curve")
    picture.save(path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short training run: (folder, name of the run, what was printed)."""
    folder = tmp_path_factory.mktemp("cli")
    done = twofold("train", "digits", "--epochs", 6, "--seed", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    (name,) = re.findall(r"The model is in (\S+)\. Next:", done.stdout)
    return folder, name, done


def test_training_reports_and_says_what_to_do_next(trained):
    folder, name, done = trained
    (accuracy,) = re.findall(r"test accuracy (\S+)%", done.stdout)
    assert float(accuracy) > 95
    assert done.stderr.count("images/s") == 6  # a line per epoch where there is no terminal
    assert f"twofold predict {name}" in done.stdout
    assert f"twofold evaluate {name}" in done.stdout
    info = json.loads((folder / name / "run.json").read_text())
    assert f"{info['result']['test_accuracy']:.2%}" == accuracy + "%"
    assert info["training"]["seed"] == 1


def test_evaluate_agrees_with_training(trained):
    folder, name, done = trained
    again = twofold("evaluate", name, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[0] in done.stdout


@pytest.mark.parametrize("style", [{}, {"ink": 255, "paper": 0, "width": 20}, {"size": 40, "width": 3}])
def test_predict_reads_drawn_digits(trained, style, tmp_path):
    folder, name, _ = trained
    pictures = [draw(digit, tmp_path / f"{digit}.png", **style) for digit in STROKES]
    done = twofold("predict", name, *pictures, cwd=folder)
    assert done.returncode == 0, done.stderr
    answers = re.findall(r"It is (\d)", done.stdout)
    right = sum(answer == digit for answer, digit in zip(answers, STROKES, strict=True))
    assert right >= 3, done.stdout


def test_transparent_pictures_have_white_paper(trained, tmp_path):
    folder, name, _ = trained
    grey = Image.open(draw("0", tmp_path / "grey.png"))
    clear = Image.new("RGBA", grey.size, (0, 0, 0, 0))
    clear.putalpha(grey.point(lambda v: 255 - v))
    clear.save(tmp_path / "clear.png")
    answers = [twofold("predict", name, tmp_path / f, cwd=folder).stdout for f in ("grey.png", "clear.png")]
    assert answers[0] == answers[1]
    assert "It is 0" in answers[0]


@pytest.mark.parametrize(
    "args, message",
    [
        (["train", "cats"], "there is no task 'cats'"),
        (["evaluate", "nowhere"], "nowhere is not the directory of a run"),
        (["predict", "RUN", "missing.png"], "there is no file missing.png"),
        (["predict", "RUN", "broken.png"], "not a picture that can be read"),
        (["predict", "RUN", "truncated.png"], "not a picture that can be read"),
        (["predict", "RUN", "enormous.png"], "not a picture that can be read"),
        (["predict", "RUN", "."], "not a picture that can be read"),
        (["predict", "RUN", "blank.png"], "the picture is blank"),
        (["train", "digits", "--out", "broken.png/run"], "can't be made: Not a directory"),
        (["train", "digits", "--out", "RUN"], "exists already"),
        (["train", "digits", "--epochs", "1", "--lr", "1e30", "--out", "diverged"], "training diverged"),
    ],
)
def test_mistakes_get_one_clear_message(trained, args, message):
    folder, name, _ = trained
    (folder / "broken.png").write_bytes(b"no picture")
    Image.new("L", (20, 20), 255).save(folder / "blank.png")
    (folder / "truncated.png").write_bytes(draw("4", folder / "whole.png").read_bytes()[:200])
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (folder / "enormous.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    done = twofold(*[name if a == "RUN" else a for a in args], cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("twofold: ")


@pytest.mark.parametrize(("size", "width"), [(1000, 1), (1000, 10), (200, 3), (64, 1)])
def test_thin_strokes_do_not_break(size, width):
    """A ring stays a ring, whatever pen and canvas it was drawn with."""
    picture = Image.new("L", (size, size), 255)
    box = [size * 0.3, size * 0.1, size * 0.7, size * 0.9]
    ImageDraw.Draw(picture).ellipse(box, outline=0, width=width)
    cells = picture_to_input(picture)[0, 0]
    assert (cells.sum(dim=1) > 0.5).all()
    assert (cells - cells.flip(1)).abs().max() < 0.35


def test_white_strokes_on_nothing_are_read(trained, tmp_path):
    folder, name, _ = trained
    grey = Image.open(draw("0", tmp_path / "grey.png"))
    light = Image.new("RGBA", grey.size, (255, 255, 255, 0))
    light.putalpha(grey.point(lambda v: 255 - v))
    light.save(tmp_path / "light.png")
    done = twofold("predict", name, tmp_path / "light.png", cwd=folder)
    assert "It is 0" in done.stdout, done.stderr


def test_an_interrupted_training_says_so_and_leaves_nothing(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", "from twofold.cli import main; main()", "train", "digits", "--out", "run"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:  # fmt: skip
        assert running.stderr is not None and "epoch" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        rest = running.communicate(timeout=60)[1]
    assert running.returncode == 130
    assert rest.strip().endswith("twofold: stopped") and "Traceback" not in rest
    assert not (tmp_path / "run").exists()


def test_doctor_finds_everything_well(tmp_path):
    done = twofold("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout
    for word in ("twofold", "CPU features", "numpy", "pillow", "gradients", "saving"):
        assert word in done.stdout


def test_doctor_warms_the_cache_of_kernels(tmp_path, monkeypatch):
    monkeypatch.setenv("TWOFOLD_CACHE_DIR", "0")  # tests/compiler/test_warm.py has the rest
    done = twofold("doctor", "--warm", cwd=tmp_path)
    assert done.returncode == 0 and "no cache" in done.stdout, done.stdout


def test_version_and_help(tmp_path):
    assert twofold("--version", cwd=tmp_path).stdout.startswith("twofold ")
    shown = twofold("--help", cwd=tmp_path).stdout
    for command in ("train", "evaluate", "predict", "doctor"):
        assert command in shown
