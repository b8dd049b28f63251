"""The house: rooms import downwards only, no cycles, nothing heavy at import, tables that agree."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import twofold
from twofold.ir.dtypes import ALL, BY_NAME, FROM_NUMPY
from twofold.ir.primitive import PRIMITIVES
from twofold.tensors._registry import FUNCTIONS, METHODS

ROOT = Path(twofold.__file__).parent
FLOORS = {  # docs/design/0001; "" is the package itself: the public names of floors 0 to 3
    "ir": 0,
    "primitives": 1,
    "autodiff": 2,
    "backends": 2,
    "tensors": 3,
    "compiler": 3,
    "": 3.5,
    "nn": 4,
    "optim": 4,
    "data": 4,
    "train": 5,
    "vision": 6,
    "cli": 7,
}
SHADOWED = {"trace"}  # twofold.trace traces; the sum of a diagonal is Tensor.trace
HEAVY = (
    "PIL", "rich", "typer", "safetensors", "urllib.request", "torch", "llvmlite", "scipy", "hypothesis",
    "pytest", "ssl", "asyncio", "multiprocessing", "pydoc", "unittest",
)  # fmt: skip


def dotted(file):
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {dotted(f): f for f in sorted(ROOT.rglob("*.py"))}


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or (ROOT / parts[-1]).is_dir() else ""


def imports(module):
    """(imported module of the package, line, whether inside a function); not those for type checkers."""
    parts = module.split(".") if FILES[module].name == "__init__.py" else module.split(".")[:-1]

    def walk(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            names = []
            if isinstance(child, ast.Import):
                names = [a.name for a in child.names]
            elif isinstance(child, ast.ImportFrom):
                prefix = parts[: len(parts) - child.level + 1] if child.level else []
                base = ".".join([*prefix, *filter(None, [child.module])])
                names = [f"{base}.{a.name}" if f"{base}.{a.name}" in FILES else base for a in child.names]
            yield from ((name, child.lineno, inside) for name in names if name.split(".")[0] == "twofold")
            yield from walk(child, inside or isinstance(child, (ast.FunctionDef, ast.Lambda)))

    return list(walk(ast.parse(FILES[module].read_text()), False))


IMPORTS = {module: imports(module) for module in FILES}


def test_the_reader_of_imports_sees_them():
    assert ("twofold.ir.types", False) in [(t, inside) for t, _, inside in IMPORTS["twofold.ir.graph"]]
    assert sum(map(len, IMPORTS.values())) > 200


def test_every_room_has_a_floor():
    assert {room(m) for m in FILES} == FLOORS.keys()


@pytest.mark.parametrize("module", FILES)
def test_rooms_import_downwards(module):
    here = room(module)
    for target, line, inside in IMPORTS[module]:
        there = room(target)
        assert target in FILES, f"{module}:{line} imports {target}, which is no module of the package"
        assert there == here or FLOORS[there] < FLOORS[here], f"{module}:{line} imports {target} from above"
        assert not inside, f"{module}:{line} imports {target} inside a function"


def test_no_import_cycles():
    finished, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in finished:
            path.append(module)
            for target, _, _ in IMPORTS.get(module, ()):
                visit(target)
            finished.add(path.pop())

    for module in FILES:
        visit(module)


def test_import_is_light():
    code = f"import sys, twofold; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_tables_agree():
    assert [d.name for d in ALL] == list(BY_NAME) and set(FROM_NUMPY.values()) == set(ALL)
    for name, primitive in PRIMITIVES.items():
        assert primitive.name == name
        assert set(primitive.dtypes) <= set(ALL)
    hidden = {name for name, fn in FUNCTIONS.items() if getattr(twofold, name, None) is not fn}
    assert hidden <= SHADOWED
    assert not [name for name in METHODS if not hasattr(twofold.Tensor, name)]
