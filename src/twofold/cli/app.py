"""Commands. Each parses its arguments, calls the library and prints what a person wants to know."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..ir.errors import TwofoldError
from ..train import Run
from ..vision import digits
from . import doctor as _doctor
from .report import confusion_lines, probability_lines

app = typer.Typer(
    help="Build, train and deploy deep-learning models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_TASKS = ("digits",)


def _version(value: bool) -> None:
    if value:
        print(f"twofold {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="What to train: digits.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per update.")] = 64,
    lr: Annotated[float, typer.Option(min=0.0, help="Peak learning rate.")] = 3e-3,
    seed: Annotated[int, typer.Option(help="Of all random numbers; the same seed gives the same model.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Directory to make for the run; runs/<task>-<time> if left out.")
    ] = None,
) -> None:
    """Train a model and write it to a run directory."""
    if task not in _TASKS:
        raise TwofoldError(f"there is no task {task!r}", op="train", hint=f"tasks: {', '.join(_TASKS)}")
    if out is not None and out.exists():
        raise TwofoldError(f"{out} exists already", op="train", hint="give --out a new name")
    run, confusion = digits.train_digits(epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, out=out)
    print()
    print("\n".join(confusion_lines(confusion, digits.CLASSES)))
    print(f"\nThe model is in {run.path}. Next:")
    print(f"  twofold predict {run.path} picture.png   # which digit is in a picture that you drew?")
    print(f"  twofold evaluate {run.path}              # test it again")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Directory of a training run.")],
) -> None:
    """Test a trained model on its held-out test split."""
    model = digits.load_model(Run(run))
    print("\n".join(confusion_lines(digits.evaluate_model(model), digits.CLASSES)))


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Directory of a training run.")],
    images: Annotated[list[Path], typer.Argument(help="Pictures, one object in each.")],
) -> None:
    """Say what is in a picture."""
    model = digits.load_model(Run(run))
    for path in images:
        probabilities = digits.classify(model, _open_image(path))
        if len(images) > 1:
            print(f"{path}:")
        print("\n".join(probability_lines(probabilities, digits.CLASSES)))


@app.command()
def doctor(
    warm: Annotated[bool, typer.Option("--warm", help="Compile the kernels of eager code into the cache.")] = False,
) -> None:
    """Print versions, CPU features, threads and extras, and whether everything works."""
    if warm:
        _doctor.warm()
    elif not _doctor.examine():
        raise typer.Exit(1)


def _open_image(path: Path) -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise TwofoldError(
            "reading pictures needs Pillow", op="predict", hint="pip install 'twofold[vision]'"
        ) from None
    try:
        image = Image.open(path)
        image.load()  # a truncated file is found out only here
        return image
    except FileNotFoundError:
        raise TwofoldError(f"there is no file {path}", op="predict") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as e:
        raise TwofoldError(f"{path} is not a picture that can be read: {e}", op="predict") from None


def main() -> None:
    """Entry point of the `twofold` command: errors are one clear message, not a traceback."""
    try:
        app()
    except TwofoldError as e:
        e.location = None
        print(f"twofold: {e}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as e:
        if e.code == 130:  # typer's way to end at Ctrl-C, without a word
            print("\ntwofold: stopped", file=sys.stderr)
        raise
