"""docs/errors.md: every message on the page is what its code prints, word for word."""

import re
from pathlib import Path

import pytest
from snippets import message_of

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
CASE = re.compile(r"^### (.+?)\n\n```python\n(.*?)\n```\n\n```text\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
CASES = {title: (code, message) for title, code, message in CASE.findall(PAGE.read_text())}


def test_every_section_of_the_page_is_a_case():
    assert len(CASES) == PAGE.read_text().count("\n### ") > 50


@pytest.mark.parametrize("title", CASES)
def test_message(title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, message = CASES[title]
    assert message_of(code) == message


@pytest.mark.parametrize("title", CASES)
def test_message_says_where_and_what_to_do(title):
    _, message = CASES[title]
    kind = message.partition(":")[0]
    if kind in (
        "TypeError",
        "AttributeError",
        "ValueError",
        "FileNotFoundError",
    ):  # Python's own, which say it in one sentence
        assert re.search(r"; |: .*: | \(use", message)
    else:
        assert re.search(r"\n  at: train\.py:\d+: \S", message)
        assert "\n  hint: " in message


def test_lines_are_those_of_the_user_even_in_callbacks():
    """The innermost line outside the package counts: a derivative of one's own, a hook."""
    text = message_of(
        """
class Double(tw.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g.view(7)


Double.apply(tw.ones(3, requires_grad=True)).sum().backward()
""".strip()
    )
    assert "at: train.py:14: return g.view(7)" in text
    text = message_of(
        """
layer = nn.Linear(2, 2)
layer.register_forward_hook(lambda m, args, out: out.view(3))
nn.Sequential(layer)(tw.ones(1, 2))
""".strip()
    )
    assert "layer: 0 = Linear(" in text
    assert "at: train.py:8: layer.register_forward_hook(lambda m, args, out: out.view(3))" in text


def test_paths_through_lists_and_dicts_of_layers_in_another_thread():
    """The path is that of the innermost layer, in the outermost model that was called."""
    text = message_of(
        """
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(5, 4)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({"encoder": Encoder(), "decoder": nn.Linear(4, 4)})

    def forward(self, x):
        return self.parts["decoder"](self.parts["encoder"](x))


from concurrent.futures import ThreadPoolExecutor

with ThreadPoolExecutor(1) as pool:
    pool.submit(Model(), tw.zeros(2, 4)).result()
""".strip()
    )
    assert "layer: parts.encoder.layers.1 = Linear(in_features=5" in text
    assert "at: train.py:14: x = layer(x)" in text


def test_lines_of_pythons_own_library_are_passed_over():
    text = message_of("import copy\n\nx = tw.ones(2, requires_grad=True)\ncopy.deepcopy([{1: x * 2}])")
    assert "at: train.py:10: copy.deepcopy([{1: x * 2}])" in text
