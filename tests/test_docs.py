"""Public names are documented, and the code in docstrings, README and guides runs."""

import contextlib
import doctest
import importlib
import inspect
import pkgutil
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import twofold as tw
from twofold.autodiff.handle import Tensor
from twofold.tensors._registry import FUNCTIONS, METHODS

ROOT = Path(__file__).parents[1]
PUBLIC = [
    "twofold", "twofold.autograd", "twofold.compiler", "twofold.cuda", "twofold.data", "twofold.data.samplers",
    "twofold.debug", "twofold.nn", "twofold.nn.functional", "twofold.nn.init", "twofold.nn.utils", "twofold.optim",
    "twofold.optim.lr_scheduler", "twofold.train", "twofold.vision", "twofold.vision.datasets",
    "twofold.vision.models", "twofold.vision.transforms", "twofold.vision.transforms.functional",
]  # fmt: skip


def public_module(name):
    """The module behind a public dotted name, which may be an attribute and no file."""
    module = tw
    for part in name.split(".")[1:]:
        module = getattr(module, part)
    return module


def public_names(module):
    """Its `__all__`, or what it defines or re-exports without a leading underscore."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and (inspect.isclass(value) or inspect.isroutine(value))
            and (getattr(value, "__module__", None) or "").startswith("twofold")
        ]
    return {name: getattr(module, name) for name in names}


DOCUMENTED = {}
for _space in PUBLIC:
    for _name, _value in public_names(public_module(_space)).items():
        if inspect.isclass(_value) or callable(_value) or inspect.ismodule(_value):
            DOCUMENTED[f"{_space}.{_name}"] = _value
for _name, _fn in METHODS.items():
    if not _name.startswith("__"):
        DOCUMENTED[f"twofold.Tensor.{_name}"] = _fn
METHODS_OF = [  # classes whose public methods users call
    value
    for name, value in DOCUMENTED.items()
    if inspect.isclass(value) and not name.startswith("twofold.nn.functional") and value is not Tensor
]


def first_sentence(doc):
    return re.split(r"\n\s*\n", inspect.cleandoc(doc))[0]


def test_the_public_spaces_are_all_there():
    assert len(DOCUMENTED) > 900
    assert {"twofold.nn.Conv2d", "twofold.optim.Adam", "twofold.Tensor.view", "twofold.trace"} <= DOCUMENTED.keys()


@pytest.mark.parametrize("space", PUBLIC)
def test_public_names_are_documented(space):
    """A docstring whose first sentence ends with a period, for modules, classes and functions."""
    assert first_sentence(public_module(space).__doc__ or "").endswith((".", ":")), f"{space} itself"
    bad = []
    for name, value in DOCUMENTED.items():
        if name.rpartition(".")[0] == space and not first_sentence(inspect.getdoc(value) or "").endswith(
            (".", ":")
        ):
            bad.append(name)
    assert not bad


def test_methods_of_tensors_are_documented():
    bad = [n for n, fn in DOCUMENTED.items() if n.startswith("twofold.Tensor.") and not (fn.__doc__ or "").strip()]
    properties = [
        n for n, v in vars(Tensor).items() if isinstance(v, property) and not n.startswith("_") and not v.__doc__
    ]
    assert not bad + properties


def test_methods_of_public_classes_are_documented():
    """Own public methods and properties; those that override a documented one share its text."""
    bad = set()
    for cls in METHODS_OF:
        for name, value in vars(cls).items():
            function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            if name not in ("forward", "extra_repr") and not inspect.getdoc(getattr(cls, name)):
                bad.add(f"{cls.__module__}.{cls.__qualname__}.{name}")
    assert not sorted(bad)


# --- docstrings run ----------------------------------------------------------------------------

MODULES = sorted(m.name for m in pkgutil.walk_packages(tw.__path__, "twofold.") if m.name != "twofold.__main__")
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore")
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    before = tw.get_rng_state()
    failures = []
    finder, runner = (
        doctest.DocTestFinder(exclude_empty=True),
        doctest.DocTestRunner(verbose=False, optionflags=OPTIONS),
    )
    for test in finder.find(module, name):
        test.globs.setdefault("tw", tw)
        runner.run(test, out=failures.append)
    tw.set_rng_state(before)
    assert not failures, "".join(failures)


def test_many_docstrings_have_examples():
    """Of public functions and classes at least four of five show how to call them."""
    shown = [n for n, v in DOCUMENTED.items() if ">>>" in (v.__doc__ or "")]
    own = [n for n, v in DOCUMENTED.items() if not (v.__doc__ or "").startswith("In-place form of")]
    assert len(shown) > 0.8 * len(own)


# --- README and guides -------------------------------------------------------------------------


def blocks(path, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)


@pytest.mark.parametrize("path", ["README.md", "README.zh-CN.md"])
def test_the_python_of_the_readme_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = blocks(path, "python")
    assert len(code) >= 2
    names = {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("error")
        for block in code:  # later blocks go on with the names of earlier ones
            exec(compile(block, path, "exec"), names)
    assert names["loss"].item() < 2.25  # one pass over the digits: less than by guessing, 2.3
    assert "conv" in str(names["program"].graph)


def test_both_readmes_say_the_same():
    """The code is equal but for comments, and so are the headings' number and the links."""

    def bare(path):
        return [
            re.sub(r"\s*#.*", "", block)
            for language in ("python", "sh", "text")
            for block in blocks(path, language)
        ]

    assert bare("README.md") == bare("README.zh-CN.md")
    shapes = [[line.split(" ")[0] for line in (ROOT / p).read_text().splitlines() if re.match("#+ ", line)]
              for p in ("README.md", "README.zh-CN.md")]  # fmt: skip
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("path", ["README.md", "README.zh-CN.md", "CONTRIBUTING.md", *sorted(
    str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))])  # fmt: skip
def test_files_that_are_named_exist(path):
    """Paths in backticks and links to files of the repository."""
    text = re.sub(r"```.*?```", "", (ROOT / path).read_text(), flags=re.DOTALL)
    named = re.findall(r"`((?:docs|examples|tests|benchmarks|src|\.ci)/[\w./-]*)`", text)
    named += [t for t in re.findall(r"\]\(([^)#:]+)\)", text) if "://" not in t]
    missing = [n for n in named if not (ROOT / n).exists() and not ((ROOT / path).parent / n).exists()]
    assert not missing


def test_the_error_in_the_readme_is_the_real_one():
    model = tw.nn.Sequential()
    model.fc1 = tw.nn.Linear(2304, 128)
    with pytest.raises(RuntimeError) as info:
        model(tw.zeros(64, 3136))
    lines = [line for line in str(info.value).splitlines() if not line.startswith("  at:")]
    (shown,) = blocks("README.md", "text")
    assert [line.strip() for line in lines] == [
        s.strip() for s in shown.splitlines() if s.strip() and "at:" not in s
    ]


def test_adding_an_operation_as_contributing_says():
    """The two snippets of CONTRIBUTING.md, taken from it and run: a composite, and a primitive."""
    composite, primitive = re.findall(
        r"^       (?:@function|sinh = ).*?\n(?:       .*\n|\n)*", (ROOT / "CONTRIBUTING.md").read_text(), re.M
    )
    from twofold.ir.primitive import PRIMITIVES
    from twofold.tensors import _registry

    names = {"tw": tw, "Tensor": Tensor, "function": _registry.function}
    kept = dict(FUNCTIONS), dict(METHODS)
    try:
        exec(inspect.cleandoc(composite).replace("def square", "def squared_again"), names)
        assert "squared_again" in FUNCTIONS and "squared_again_" in METHODS
        assert names["squared_again"](tw.tensor([1.0, -2.0])).tolist() == [1.0, 4.0]
        out = tw.zeros(2)
        FUNCTIONS["squared_again"](tw.tensor([1.0, -2.0]), out=out)
        assert out.tolist() == [1.0, 4.0]
    finally:
        for table, before in zip((FUNCTIONS, METHODS), kept, strict=True):
            table.clear()
            table.update(before)
    names = {"np": np}
    for module in (
        "twofold.primitives._rules",
        "twofold.primitives.elementwise",
        "twofold.ir.primitive",
        "twofold.ir.dtypes",
        "twofold.primitives.unary",
    ):
        names.update(vars(importlib.import_module(module)))
    try:
        exec(
            inspect.cleandoc(primitive)
            .replace('"sinh",\n    type', '"sinh_again",\n    type')
            .replace("sinh = ", "again = "),
            names,
        )
        again = names["again"]
        rng = np.random.default_rng(0)
        for dtype in again.dtypes:
            for sample in again.samples(dtype, rng):
                result = again(*[tw.from_numpy(x) for x in sample.inputs])
                expected = np.sinh(sample.inputs[0]).astype(complex)
                np.testing.assert_array_equal(result.numpy().astype(complex), expected)
        for error in again.errors():
            with pytest.raises(error.error, match=error.match):
                again(*[tw.from_numpy(x) for x in error.inputs])
        x = tw.tensor([0.5, 1.0], dtype=tw.float64, requires_grad=True)
        assert tw.autograd.gradcheck(again, (x,)) and tw.autograd.gradgradcheck(again, (x,))
        assert tw.trace(again, x.detach()).graph.nodes[0].prim is again
    finally:
        PRIMITIVES.pop("sinh_again", None)
