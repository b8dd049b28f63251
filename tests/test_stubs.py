"""What type checkers and editors see: the generated stubs are up to date and say the truth."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import twofold

TOOL = Path(__file__).parent.parent / "tools" / "stubs.py"
PACKAGE = Path(twofold.__file__).parent

GOOD = """
import twofold as tw
import twofold.nn.functional as F
from twofold import nn

x = tw.tensor([1.0, 2.0], requires_grad=True)
reveal_type(x)  # Tensor
reveal_type(x.exp())  # Tensor
reveal_type(x.exp_())  # Tensor
reveal_type(2 * x + 1)  # Tensor
reveal_type(-x @ x.T)  # Tensor
reveal_type(x == x)  # Tensor
reveal_type(x.shape)  # tuple[int, ...]
reveal_type(x.size(0))  # int
reveal_type(x.size())  # tuple[int, ...]
reveal_type(x.dtype)  # DType
reveal_type(x.is_leaf)  # bool
reveal_type(x.grad)  # Tensor | None
reveal_type(x.type())  # str
reveal_type(x.max())  # Tensor
reveal_type(x.max(0).indices)  # Tensor
reveal_type(x.sort(descending=True)[0])  # Tensor
reveal_type(x.sum(axis=0, keepdims=True))  # Tensor
reveal_type(x.numel())  # int
reveal_type(tw.nonzero(x, as_tuple=True))  # tuple[Tensor, ...]
reveal_type(tw.exp(x, out=tw.empty(2)))  # Tensor
reveal_type(tw.allclose(x, x))  # bool
reveal_type(tw.float32)  # DType
reveal_type(tw.int)  # DType
reveal_type(tw.grad)  # def (f: 
reveal_type(tw.nn.Parameter(x).zero_())  # Parameter
reveal_type(tw.nn.Linear(2, 3))  # Linear
reveal_type(tw.device("cpu"))  # Device
reveal_type([row for row in x])  # list[Tensor]
x.sum().backward()
x.data = x.detach()
x.requires_grad = False
x[0] = 1.0
x += 1
layer = tw.nn.Linear(2, 3)
layer(x).relu().sum().backward()
with tw.no_grad():
    y: tw.Tensor = F.relu(x)
optimizer = tw.optim.SGD(layer.parameters(), lr=0.1)
loader = tw.data.DataLoader(tw.data.TensorDataset(x, y), batch_size=2)
tw.set_num_threads(1)


@tw.compile
def step(a: tw.Tensor) -> tw.Tensor:
    return tw.where(a > 0, a, 0).to(tw.float64)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(2, 2)

    def forward(self, x: tw.Tensor) -> tw.Tensor:
        return self.hidden(x)
"""

BAD = """
import twofold as tw

x = tw.ones(2)
x.relux()  # attr-defined
x.sum(dimension=0)  # call-overload
tw.exp("a")  # arg-type
tw.no_such_function  # attr-defined
x + "a"  # operator
x.unsqueeze("a")  # call-overload
x.retain_grad(keep=True)  # call-arg
n: int = x.exp()  # assignment
x.shape = (3,)  # misc
x.size(0).exp()  # attr-defined
tw.float64 + 1  # operator
"""


def check(folder, text):
    """What mypy says of a program that uses the installed package: (line, message) pairs."""
    (folder / "program.py").write_text(text)
    options = ["--python-executable", sys.executable, "--config-file=", "--cache-dir", folder / "cache"]
    result = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "program.py"], capture_output=True, text=True, cwd=folder
    )
    assert not result.stderr
    found = re.findall(r"^program\.py:(\d+): (?:error|note): (.*)$", result.stdout, re.M)
    return [(int(line), message) for line, message in found], result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("types")


def expected(text):
    lines = enumerate(text.split("\n"), 1)
    return {n: line.rpartition("  # ")[2] for n, line in lines if "  # " in line}


def test_stubs_are_up_to_date():
    result = subprocess.run([sys.executable, TOOL, "--check"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_stale_stub_is_noticed(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(TOOL.parent)!r}); import stubs; from pathlib import Path\n"
        f"stubs.FILES = {{Path({str(tmp_path / 'a.pyi')!r}): stubs.package_stub}}\n"
        "print(stubs.main(['--check']), stubs.main([]), stubs.main(['--check']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "1 0 0"


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "__init__.pyi").exists() and (PACKAGE / "autodiff" / "handle.pyi").exists()


def test_every_public_name_is_in_the_stub():
    text = (PACKAGE / "__init__.pyi").read_text()
    names = set(re.findall(r"^def (\w+)\(|^(\w+)(?::| =)|^from .* import \w+ as (\w+)", text, re.M))
    names = {name for found in names for name in found if name}
    rooms = {"autodiff", "backends", "cli", "compiler", "ir", "primitives", "tensors"}  # as far as they are loaded
    assert set(dir(twofold)) - rooms <= names
    assert {n for n in names if not hasattr(twofold, n)} == set()


def test_every_member_of_tensor_is_in_the_stub():
    text = (PACKAGE / "autodiff" / "handle.pyi").read_text()
    body = text[text.index("class Tensor:") :]
    names = set(re.findall(r"^    (?:def )?(\w+)[(:]", body, re.M))
    members = {n for n in vars(twofold.Tensor) if not (n.startswith("__") and n in vars(type("", (), {})))}
    assert members - names <= {"__annotations__", "__array_priority__"}


def test_right_programs_pass(folder):
    found, output = check(folder, GOOD)
    assert "error" not in output
    revealed = {
        n: re.sub(r"\b[a-z_]+\.(?:[a-z_]+\.)*", "", message) for n, message in found if "Revealed" in message
    }
    wanted = expected(GOOD)
    assert revealed.keys() == wanted.keys() and len(wanted) > 20
    wrong = {n: (revealed[n], text) for n, text in wanted.items() if f'"{text}' not in revealed[n]}
    assert wrong == {}


def test_wrong_programs_are_refused(folder):
    found, output = check(folder, BAD)
    wanted = expected(BAD)
    codes = {n: message.rpartition("[")[2].rstrip("]") for n, message in found if "[" in message}
    assert codes == wanted, output
