"""Results as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from ..train import ConfusionMatrix


def confusion_lines(confusion: ConfusionMatrix, classes: Sequence[str]) -> list[str]:
    """Accuracy, a line per class, and the most frequent confusions."""
    matrix = confusion.matrix
    total, right = int(matrix.sum()), int(matrix.trace())
    lines = [f"test accuracy {confusion.value():.2%} ({right} of {total} right)", ""]
    width = max(len(c) for c in classes)
    lines.append(f"{'class':>{max(width, 5)}}  {'samples':>7}  found")
    for i, (name, recall) in enumerate(zip(classes, confusion.recall(), strict=True)):
        samples = int(matrix[i].sum())
        found = f"{recall:7.1%}" if samples else "      -"
        lines.append(f"{name:>{max(width, 5)}}  {samples:>7}  {found}")
    wrong = confusion.confusions()
    if wrong:
        lines.append("")
        lines.append("most confused: " + ", ".join(f"{classes[t]} as {classes[p]} ({n}x)" for t, p, n in wrong[:5]))
    return lines


def probability_lines(probabilities: Sequence[float], classes: Sequence[str], top: int = 3) -> list[str]:
    """The likeliest classes with a bar each."""
    order = sorted(range(len(classes)), key=lambda i: -probabilities[i])[:top]
    lines = [f"It is {classes[order[0]]} ({probabilities[order[0]]:.1%})"]
    width = max(len(classes[i]) for i in order)
    bars = {i: "█" * round(30 * probabilities[i]) for i in order}
    return lines + [f"  {classes[i]:>{width}}  {probabilities[i]:6.1%}  {bars[i]}" for i in order]
