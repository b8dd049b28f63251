"""Writes random programs, line by line: a line is kept if it runs eagerly and its values stay tame."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from fuzz_program import EPS, Run, Source

import twofold as tw
import twofold.nn.functional as F
from twofold import nn

FLOATS = ("float32", "float64", "float16", "bfloat16")
COMPLEX_EACH = 8  # one program of so many computes with complex numbers
BOUND = 200.0  # larger values are not wanted: their rounding errors would hide mistakes


@dataclass
class Var:
    """A name in a program: its type, and whether its bits do not depend on the order of sums."""

    name: str
    tensor: Any
    exact: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def kind(self) -> str:
        return self.tensor.dtype.kind


class Writer:
    """Writes one program by trying random lines."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.np = np.random.default_rng(seed)
        rng = self.rng
        self.dtype = rng.choices(FLOATS, (6, 5, 1, 1))[0]
        small, big, huge = (2, 3, 4, 5, 8, 17), (3, 16, 33, 64, 130), (2, 4, 260, 1030, 9000)
        sizes = rng.choices((small, big, huge), (86, 10, 4))[0]
        self.most = 9000 if sizes is not huge else 40000
        self.sizes = [rng.choice(sizes) for _ in range(3)]
        self.source = Source(
            seed,
            [self._array(self._kind()) for _ in range(rng.randint(1, 3))],
            [self._array("float") for _ in range(rng.randint(0, 2))],
            [self._array(self._kind()) for _ in range(rng.randint(0, 2))],
            [],
        )
        self.source.transposed = [a.ndim >= 2 and rng.random() < 0.3 for a in self.source.buffers]
        run = Run(self.source)
        self.env: dict[str, Any] = {"tw": tw, "F": F, "nn": nn}
        self.vars: list[Var] = []
        for letter, tensors in (("x", run.args), ("p", run.params), ("s", run.buffers)):
            for i, t in enumerate(tensors):
                self.env[f"{letter}{i}"] = t
                self.vars.append(Var(f"{letter}{i}", t, True))
        self.count = 0

    def _kind(self) -> str:
        return self.rng.choices(("float", "int", "bool"), (8, 3, 1))[0]

    def _shape(self) -> tuple[int, ...]:
        rng = self.rng
        n = rng.choices((0, 1, 2, 3, 4), (1, 3, 5, 3, 1))[0]
        shape = [rng.choice(self.sizes) if rng.random() < 0.8 else 1 for _ in range(n)]
        if n and rng.random() < 0.02:
            shape[rng.randrange(n)] = 0
        while np.prod(shape) > self.most:
            shape.pop()
        return tuple(shape)

    def _array(self, kind: str) -> np.ndarray:
        shape = self._shape()
        if kind == "bool":
            return self.np.random(shape) < 0.5 if shape else np.array(True)
        if kind == "int":
            dtype = self.rng.choice(("int64", "int64", "int32", "uint8", "int8", "int16"))
            return np.asarray(self.np.integers(0, 7, shape), dtype)
        # few bits, so that equal values occur
        values = np.asarray(self.np.integers(-24, 25, shape) / 8.0)
        return values.astype(getattr(tw, self.dtype).numpy)

    # --- picking ---------------------------------------------------------------------------

    def pick(self, *kinds: str, ndim: int = 0, exact: bool = False, most: int = 5) -> Var:
        rng = self.rng
        fits = [
            v
            for v in self.vars
            if (not kinds or v.kind in kinds) and ndim <= len(v.shape) <= most and (v.exact or not exact)
        ]
        if not fits:
            raise LookupError
        if rng.random() < 0.6:
            return rng.choice(fits[-5:])
        return rng.choice(fits)

    def mate(self, a: Var, exact: bool = False) -> Var:
        """Something of the same dtype that broadcasts with `a`."""
        fits = [
            v
            for v in self.vars
            if v.tensor.dtype is a.tensor.dtype and (v.exact or not exact) and _broadcasts(a.shape, v.shape)
        ]
        others = [v for v in fits if v.shape != a.shape]
        return self.rng.choice(others if others and self.rng.random() < 0.5 else fits)

    def dim(self, v: Var) -> int:
        n = len(v.shape)
        return self.rng.randrange(-n, n)

    def dims(self, v: Var) -> Any:
        n = len(v.shape)
        chosen = self.rng.sample(range(n), self.rng.randint(1, n)) if n else []
        return self.rng.choice((None, tuple(chosen), tuple(chosen))) if chosen else None

    # --- lines -----------------------------------------------------------------------------

    def line(self) -> tuple[str, list[Var], bool]:
        """A right-hand side, what it reads, and whether it is exact on exact inputs."""
        makers = [
            (self.unary, 5),
            (self.binary, 8),
            (self.view, 7),
            (self.reduce, 5),
            (self.product, 3),
            (self.composite, 3),
            (self.select, 3),
            (self.cast, 1),
            (self.join, 3),
            (self.gathered, 3),
            (self.integer, 2),
            (self.make, 1),
            (self.scan, 1),
            (self.windowed, 1),
        ]
        if self.source.seed % COMPLEX_EACH == COMPLEX_EACH - 1:
            makers.append((self.complexes, 12))
        return self.rng.choices([m for m, _ in makers], [w for _, w in makers])[0]()

    def unary(self) -> Any:
        v = self.pick("float")
        text, exact, needs = self.rng.choice(_UNARY)
        if needs and not v.exact:
            raise LookupError
        return text.replace("$", v.name), [v], exact

    def binary(self) -> Any:
        if self.rng.random() < 0.25:
            v = self.pick("float")
            text = self.rng.choice(
                ("$ * 0.5", "1.5 - $", "$ + 1", "0.25 * $", "$ / 4", "1 / ($.abs() + 1)", "$ - 2.0")
            )
            return text.replace("$", v.name), [v], True
        a = self.pick("float")
        b = self.mate(a)
        if self.rng.random() < 0.5:
            a, b = b, a
        text, exact, needs = self.rng.choice(_BINARY)
        if needs and not (a.exact and b.exact):
            raise LookupError
        return text.replace("$a", a.name).replace("$b", b.name), [a, b], exact

    def integer(self) -> Any:
        rng = self.rng
        if rng.random() < 0.35:
            v = self.pick("bool")
            w = self.mate(v)
            text = rng.choice(
                ("$a & $b", "$a | $b", "$a ^ $b", "~$a", "$a == $b", "$a.to(tw.int64)", "$a * 1.5", "$a + 1")
            )
        else:
            v = self.pick("int", "uint")
            w = self.mate(v)
            text = rng.choice(
                (
                    "$a + $b",
                    "$a - $b",
                    "$a * $b",
                    "-$a",
                    "$a // 3",
                    "$a % 4",
                    "$a & $b",
                    "$a | $b",
                    "$a ^ $b",
                    "~$a",
                    "$a << 1",
                    "$a >> 1",
                    "$a.abs()",
                    "tw.maximum($a, $b)",
                    "$a < $b",
                    "$a == $b",
                    "$a * 0.5",
                    "$a / 3",
                    "$a.sum()",
                    "$a.clamp(1, 3)",
                    "$a // ($b.abs() + 1)",
                    "$a % ($b.abs() + 1)",
                    "$a >= 2",
                    "$a.float()",
                    "$a.to(tw.int32)",
                    "$a.to(tw.uint8)",
                    "tw.where($a > $b, $a, $b)",
                    "$a.sign()",
                )
            )
        return text.replace("$a", v.name).replace("$b", w.name), [v, w], True

    def view(self) -> Any:
        rng = self.rng
        v = self.pick()
        n, s = len(v.shape), v.shape
        kind = rng.choice(
            (
                "reshape",
                "permute",
                "expand",
                "slice",
                "slice",
                "flip",
                "diagonal",
                "unsqueeze",
                "squeeze",
                "select",
                "movedim",
                "flatten",
                "mT",
                "roll",
                "tile",
                "unfold",
                "tril",
                "rot90",
                "narrow",
                "clone",
                "repeat",
            )
        )
        name = v.name
        if kind == "reshape":
            out = f"{name}.reshape({_factor(rng, int(np.prod(s)))})"
        elif kind == "permute":
            out = f"{name}.permute({tuple(rng.sample(range(n), n))})"
        elif kind == "expand":
            lead = rng.choice(((), (2,), (3, 1)))
            shape = lead + tuple(rng.choice((2, 3, 9)) if d == 1 else d for d in s)
            out = f"{name}.expand({shape})"
        elif kind == "slice":
            out = f"{name}[{_slices(rng, s)}]"
        elif kind == "flip":
            out = f"{name}.flip({tuple(rng.sample(range(n), rng.randint(1, n)))})" if n else name
        elif kind == "diagonal":
            a, b = rng.sample(range(n), 2)
            out = f"{name}.diagonal({rng.choice((-1, 0, 0, 1))}, {a}, {b})"
        elif kind == "unsqueeze":
            out = f"{name}.unsqueeze({rng.randint(-n - 1, n)})"
        elif kind == "squeeze":
            out = f"{name}.squeeze()"
        elif kind == "select":
            d = rng.randrange(n)
            out = f"{name}.select({d}, {rng.randrange(-s[d], s[d])})"
        elif kind == "movedim":
            out = f"{name}.movedim({rng.randrange(n)}, {rng.randrange(n)})"
        elif kind == "flatten":
            out = f"{name}.flatten()"
        elif kind == "mT":
            out = f"{name}.mT"
        elif kind == "roll":
            d = rng.randrange(n)
            out = f"{name}.roll({rng.randint(-3, 3)}, {d})"
        elif kind == "tile":
            out = f"{name}.tile({rng.choice(((2,), (2, 1), (1, 2, 2)))})"
        elif kind == "unfold":
            d = rng.randrange(n)
            out = f"{name}.unfold({d}, {rng.randint(1, 3)}, {rng.randint(1, 2)})"
        elif kind == "tril":
            out = f"{name}.{rng.choice(('tril', 'triu'))}({rng.randint(-1, 1)})"
        elif kind == "rot90":
            out = f"tw.rot90({name}, {rng.randint(1, 3)}, {tuple(rng.sample(range(n), 2))})"
        elif kind == "narrow":
            d = rng.randrange(n)
            length = rng.randint(0 if rng.random() < 0.1 else 1, s[d])
            out = f"{name}.narrow({d}, {rng.randint(0, s[d] - length)}, {length})"
        elif kind == "repeat":
            out = f"{name}.repeat_interleave(2, {rng.randrange(n)})"
        else:
            out = f"{name}.clone()"
        return out, [v], True

    def reduce(self) -> Any:
        rng = self.rng
        v = self.pick("float")
        dims, keep = self.dims(v), rng.random() < 0.5
        name, exact, needs = rng.choice(
            (
                ("sum", False, False),
                ("sum", False, False),
                ("mean", False, False),
                ("amax", True, False),
                ("amin", True, False),
                ("var", False, False),
                ("std", False, False),
                ("logsumexp", False, False),
                ("prod", False, False),
                ("argmax", True, True),
                ("argmin", True, True),
                ("max", True, True),
                ("min", True, True),
                ("norm", False, False),
                ("any", True, True),
                ("all", True, True),
                ("median", True, True),
                ("count_nonzero", True, True),
            )
        )
        if needs and not v.exact:
            raise LookupError
        if name in ("argmax", "argmin"):
            return f"{v.name}.{name}({self.dim(v)}, keepdim={keep})", [v], True
        if name in ("max", "min", "median"):
            return f"{v.name}.{name}({self.dim(v)}, keepdim={keep})[{rng.randrange(2)}]", [v], True
        if name == "prod":
            return f"(1 + 0.1 * {v.name}).prod({self.dim(v)}, keepdim={keep})", [v], False
        if name in ("any", "all", "count_nonzero"):
            return f"({v.name} > 0.5).{name}({self.dim(v)})", [v], True
        if name == "std":
            return f"({v.name}.var({dims}, keepdim={keep}) + 0.5).sqrt()", [v], False
        if name == "norm":
            return f"({v.name}.square().sum({dims}, keepdim={keep}) + 0.5).sqrt()", [v], False
        return f"{v.name}.{name}({dims}, keepdim={keep})", [v], exact

    def product(self) -> Any:
        rng = self.rng
        a = self.pick("float", ndim=1, most=4)
        fits = [v for v in self.vars if v.tensor.dtype is a.tensor.dtype and 1 <= len(v.shape) <= 4]
        b = rng.choice(fits)
        k, n, name = a.shape[-1], a.name, b.name
        forms = [f"{n}.mT @ {n}", f"{n} @ {n}.mT"] if len(a.shape) >= 2 else [f"{n} @ {n}", f"tw.outer({n}, {n})"]
        if b.shape[-1] == k and len(b.shape) >= 2:
            forms += [f"{n} @ {name}.mT"] * 3
            if len(b.shape) == 2:
                forms += [f"F.linear({n}, {name})"] * 2
        if len(b.shape) >= 2 and b.shape[-2] == k:
            forms += [f"{n} @ {name}"] * 3
        if len(b.shape) >= 2 and len(a.shape) >= 2 and b.shape[-2] == a.shape[-2]:
            forms += [f"{n}.mT @ {name}"] * 3
        if len(b.shape) == 1 and b.shape[0] == k:
            forms += [f"{n} @ {name}"] * 2
        return f"({rng.choice(forms)}) * 0.25", [a, b], False

    def composite(self) -> Any:
        rng = self.rng
        v = self.pick("float", ndim=1)
        d = self.dim(v)
        text = rng.choice(
            (
                f"$.softmax({d})",
                f"$.log_softmax({d})",
                "F.layer_norm($, $.shape[-1:])",
                f"($ - $.mean({d}, keepdim=True)) / ($.var({d}, keepdim=True) + 1).sqrt()",
                f"$ / ($.square().sum({d}, keepdim=True) + 1)",
                "F.gelu($)",
                "F.silu($)",
                "F.softplus($)",
                f"F.normalize($ + 3, dim={d})",
                "F.dropout($, 0.25)",
                "tw.rand_like($) + $",
                "F.mse_loss($, tw.zeros_like($))",
                "F.rms_norm($, $.shape[-1:], eps=1.0)",
                f"$.cumsum({d}) * 0.25",
                "F.cross_entropy($.reshape(-1, $.shape[-1]), tw.zeros($.numel() // $.shape[-1], dtype=tw.int64))",
                f"$ - $.amax({d}, keepdim=True)",
                "$ - $.sum() * 0.01",
                "$ * ($.mean(0, keepdim=True) + $.mean(-1, keepdim=True))",
                "F.glu($)",
                f"$ * $.softmax({d}).sum(0, keepdim=True)",
                "F.huber_loss($, $ * 0.5)",
            )
        )
        exact = False
        return text.replace("$", v.name), [v], exact

    def complexes(self) -> Any:
        """Real numbers by way of complex ones."""
        a = self.pick("float")
        b = self.mate(a)
        if a.tensor.dtype.name not in ("float32", "float64"):
            raise LookupError
        z, w = f"tw.complex({a.name}, {b.name})", f"tw.complex({b.name}, {a.name})"
        text = self.rng.choice(_COMPLEX).replace("$z", z).replace("$w", w)
        return text + self.rng.choice((".real", ".imag", ".abs()")), [a, b], False

    def select(self) -> Any:
        rng = self.rng
        a = self.pick("float")
        b = self.mate(a)
        masks = [v for v in self.vars if v.kind == "bool" and _broadcasts(a.shape, v.shape)]
        if masks and rng.random() < 0.6:
            m = rng.choice(masks)
            text = rng.choice((f"tw.where({m.name}, {a.name}, {b.name})", f"{a.name}.masked_fill({m.name}, 0.5)"))
            return text, [a, b, m], True
        if not (a.exact and b.exact):
            raise LookupError
        text = rng.choice(
            ("$a < $b", "$a == $b", "$a >= 0.5", "tw.where($a > $b, $a, $b * 0.5)", "$a.isfinite()", "$a != $b")
        )
        return text.replace("$a", a.name).replace("$b", b.name), [a, b], True

    def cast(self) -> Any:
        v = self.pick()
        to = self.rng.choice(("float32", "float64", "int64", "int32", "bool", self.dtype, self.dtype))
        if v.kind == "float" and to in ("int64", "int32", "bool") and not v.exact:
            raise LookupError
        return f"{v.name}.to(tw.{to})", [v], True

    def join(self) -> Any:
        rng = self.rng
        v = self.pick(ndim=1)
        d = self.dim(v) % len(v.shape)
        fits = [
            w
            for w in self.vars
            if w.tensor.dtype is v.tensor.dtype
            and len(w.shape) == len(v.shape)
            and all(a == b for i, (a, b) in enumerate(zip(v.shape, w.shape, strict=True)) if i != d)
        ]
        parts = [rng.choice(fits) for _ in range(rng.randint(1, 2))]
        names = ", ".join(w.name for w in (v, *parts))
        kind = rng.choice(("cat", "cat", "stack", "pad", "pad"))
        if kind == "pad":
            widths = tuple(rng.randint(0, 2) for _ in range(2 * min(2, len(v.shape))))
            return f"F.pad({v.name}, {widths}, value=1)", [v], True
        if kind == "stack" and all(w.shape == v.shape for w in parts):
            return f"tw.stack(({names}), {d})", [v, *parts], True
        return f"tw.cat(({names}), {d})", [v, *parts], True

    def gathered(self) -> Any:
        rng = self.rng
        v = self.pick(ndim=1)
        d = rng.randrange(len(v.shape))
        n = v.shape[d]
        places = [rng.randrange(-n, n) for _ in range(rng.randint(1, 5))]
        plain = [p % n for p in places]
        ints = [w for w in self.vars if w.kind == "int" and w.tensor.dtype is tw.int64 and 1 <= len(w.shape) <= 2]
        kind = rng.choice(
            ("index", "index", "index_select", "gather", "put", "index_add", "scatter_add", "by", "take")
        )
        colons = ":, " * d
        if kind == "index":
            return f"{v.name}[{colons}tw.tensor({places})]", [v], True
        if kind == "index_select":
            return f"{v.name}.index_select({d}, tw.tensor({plain}))", [v], True
        if kind == "gather" or kind == "scatter_add":
            shape = list(v.shape)
            shape[d] = min(len(plain), n) if kind == "scatter_add" else len(plain)
            index = f"(tw.arange({int(np.prod(shape))}) * 5 % {n}).reshape({tuple(shape)})"
            if kind == "gather":
                return f"{v.name}.gather({d}, {index})", [v], True
            w = f"{v.name}[{colons}:{shape[d]}]"
            return f"{v.name}.scatter_add({d}, {index}, {w} + {w})", [v], v.kind != "float"
        if kind == "index_add":
            return (
                f"{v.name}.index_add({d}, tw.tensor({plain}), {v.name}.index_select({d}, tw.tensor({plain})))",
                [v],
                v.kind != "float",
            )
        if kind == "by" and ints:
            i = rng.choice(ints)
            return f"{v.name}[{colons}{i.name} % {n}]", [v, i], True
        if kind == "take":
            return f"tw.take_along_dim({v.name}, tw.argsort({v.name}, dim={d}, stable=True), {d})", [v], v.exact
        return f"tw.index_put({v.name}, (tw.tensor({plain[0]}),), {v.name}[0] + {v.name}[0])", [v], True

    def make(self) -> Any:
        rng = self.rng
        shape = self._shape()
        dtype = rng.choice((self.dtype, "int64"))
        n = int(np.prod(shape))
        text = rng.choice(
            (
                f"tw.ones({shape}, dtype=tw.{dtype})",
                f"tw.full({shape}, 2, dtype=tw.{dtype})",
                f"(tw.arange({n}) % 7).to(tw.{dtype}).reshape({shape})",
                f"tw.eye(3, 4, dtype=tw.{dtype})",
                f"tw.linspace(-1, 1, 5, dtype=tw.{self.dtype})",
                f"tw.randint(0, 5, {shape})",
                f"tw.rand({shape}, dtype=tw.{self.dtype})",
            )
        )
        return text, [], True

    def scan(self) -> Any:
        rng = self.rng
        v = self.pick("float", "int", ndim=1, exact=True)
        d = self.dim(v)
        text = rng.choice(
            (
                f"$.cummax({d})[0]",
                f"$.cummin({d})[1]",
                f"$.sort({d})[0]",
                f"$.sort({d}, descending=True, stable=True)[1]",
                f"$.topk(1, {d})[0]",
                f"$.argsort({d}, stable=True)",
            )
        )
        return text.replace("$", v.name), [v], True

    def windowed(self) -> Any:
        rng = self.rng
        v = self.pick("float", ndim=2)
        n, h, w = 1, *v.shape[-2:]
        n = int(np.prod(v.shape)) // max(1, h * w)
        c = rng.choice([k for k in (1, 2, 3) if n % k == 0])
        x = f"{v.name}.reshape({n // c}, {c}, {h}, {w})"
        k = rng.randint(1, 3)
        stride, pad = rng.randint(1, 2), rng.randint(0, k // 2)
        weight = f"((tw.arange({2 * c * k * k}) % 5).to({v.name}.dtype) * 0.125 - 0.25).reshape(2, {c}, {k}, {k})"
        text = rng.choice(
            (
                f"F.max_pool2d({x}, {k}, {stride}, {pad})",
                f"F.avg_pool2d({x}, {k}, {stride}, {pad})",
                f"F.conv2d({x}, {weight}, stride={stride}, padding={pad})",
                f"F.conv2d({x}, {weight}, stride={stride}, padding={pad}).relu()",
                f"F.max_pool2d(F.conv2d({x}, {weight}, padding={pad}).relu(), 2)",
            )
        )
        return text, [v], False

    def write(self) -> tuple[str, Var, list[Var], bool]:
        """A statement that changes a tensor in place: the target, what it reads, and whether it is exact."""
        rng = self.rng
        v = self.pick("float", "int", "uint")
        if v.name.startswith("p"):
            raise LookupError
        target = v.name
        part = v.shape
        form = rng.choice(("whole", "slice", "slice", "mT", "diagonal", "flat"))
        if form == "slice" and v.shape:
            target = f"{v.name}[{_slices(rng, v.shape)}]"
        elif form == "mT" and len(v.shape) >= 2:
            target = f"{v.name}.mT"
        elif form == "diagonal" and len(v.shape) >= 2:
            target = f"{v.name}.diagonal()"
        elif form == "flat":
            target = f"{v.name}.view(-1)[1:4]"
        part = eval(target, dict(self.env)).shape
        fits = [w for w in self.vars if w.tensor.dtype is v.tensor.dtype and _fits(w.shape, part)]
        whole = target == v.name
        if fits and rng.random() < 0.6:
            w = rng.choice(fits)
            value, reads = w.name, [w]
            if rng.random() < 0.3 and v.kind == "float":
                value = f"{w.name} * 0.5"
        else:
            value, reads = rng.choice(("2", "3")), []
        kind = rng.choice(("=", "+=", "*=", "copy_", "-=", "neg_", "zero_"))
        if kind in ("neg_", "zero_"):
            return f"{target}.{kind}()", v, [], True
        if kind == "=" and not whole and target.endswith("]"):
            return f"{target} = {value}", v, reads, True
        if kind == "*=" and v.kind == "float":
            value = "0.5"
            reads = []
        if kind in ("=", "copy_"):
            return f"{target}.copy_({value})" if reads else f"{target}.fill_({value})", v, reads, True
        if target.endswith("]") or whole:
            return f"{target} {kind} {value}", v, reads, True
        method = {"+=": "add_", "-=": "sub_", "*=": "mul_"}[kind]
        return f"{target}.{method}({value})", v, reads, True

    # --- the whole ---------------------------------------------------------------------------

    def program(self, lines: int) -> Source:
        """A program of about that many lines."""
        tries = 0
        while len(self.source.lines) < lines and tries < 12 * lines:
            tries += 1
            try:
                if self.rng.random() < 0.14:
                    self._change()
                else:
                    self._value()
            except Exception:
                continue
        self._finish()
        return self.source

    def _value(self) -> None:
        text, reads, exact = self.line()
        value = eval(text, dict(self.env))
        if not isinstance(value, tw.Tensor) or value.numel() > 2.5 * self.most or not _tame(value):
            raise LookupError
        name = f"v{self.count}"
        self.count += 1
        self.env[name] = value
        self.source.lines.append(f"{name} = {text}")
        self.vars.append(Var(name, value, exact and all(v.exact for v in reads)))
        self._note(value)

    def _note(self, value: Any) -> None:
        eps = EPS.get(value.dtype.name, 0.0)
        self.source.eps = max(self.source.eps, eps)

    def _change(self) -> None:
        text, target, reads, exact = self.write()
        kept = [(v, v.tensor.detach().clone()) for v in self.vars]
        try:
            exec(text, dict(self.env))
            if not all(_tame(v.tensor) for v in self.vars):
                raise LookupError
        except Exception:
            for v, old in kept:  # a write may have been made in part
                v.tensor._value[...] = old._value
            raise
        self.source.lines.append(text)
        if not (exact and all(v.exact for v in reads)):
            for v in self.vars:
                if np.may_share_memory(v.tensor._value, target.tensor._value):
                    v.exact = False

    def _finish(self) -> None:
        rng, source = self.rng, self.source
        own = [v for v in self.vars if v.name.startswith("v")]
        last = own[-2:] + rng.sample(own, min(3, len(own)))
        chosen = list({v.name: v for v in last}.values())
        source.results = [v.name + (".detach()" if v.tensor.requires_grad else "") for v in chosen]
        params = [
            v.tensor for v in self.vars if v.name.startswith("p")
        ]  # the step's end changes them and their views
        source.exact = [
            v.exact and not any(np.may_share_memory(v.tensor._value, p._value) for p in params) for v in chosen
        ]
        if rng.random() < 0.8:
            grads = [v for v in own if v.tensor.requires_grad and v.tensor.dtype.is_floating_point]
            source.loss = [v.name for v in rng.sample(grads, min(3, len(grads)))]
        for p in source.params[:]:
            source.eps = max(source.eps, EPS[str(np.dtype(p.dtype).name)])


_UNARY = [
    # text, exact, only on exact values (it has steps)
    ("-$", True, False),
    ("$.abs()", True, False),
    ("$.relu()", True, False),
    ("$.square()", True, False),
    ("$.sin()", False, False),
    ("$.cos()", False, False),
    ("$.tanh()", False, False),
    ("$.sigmoid()", False, False),
    ("($ * 0.1).exp()", False, False),
    ("($.abs() + 0.5).log()", False, False),
    ("($.abs() + 0.5).sqrt()", False, False),
    ("($.abs() + 0.5).rsqrt()", False, False),
    ("$.erf()", False, False),
    ("$.atan()", False, False),
    ("$ ** 2", True, False),
    ("$.clamp(-1, 2)", True, False),
    ("$.clamp(min=0.25)", True, False),
    ("$.sign()", True, True),
    ("$.floor()", True, True),
    ("$.round()", True, True),
    ("$.trunc()", True, True),
    ("($ * 0.25).expm1()", False, False),
    ("($.abs() + 0.1).log1p()", False, False),
    ("($ * 0.1).cosh()", False, False),
    ("F.elu($)", False, False),
    ("F.leaky_relu($)", True, False),
    ("F.hardtanh($)", True, False),
    ("$.frac()", True, True),
    ("(0.3 * $).tan().clamp(-2, 2)", False, False),
    ("$.nan_to_num()", True, False),
    ("$.detach()", True, False),
    ("F.relu6($)", True, False),
    ("($ > 0) * $", True, True),
    ("($.abs() + 0.5) ** -0.5", False, False),
]
_BINARY = [
    ("$a + $b", True, False),
    ("$a + $b", True, False),
    ("$a - $b", True, False),
    ("$a * $b", True, False),
    ("$a * $b", True, False),
    ("$a / ($b.abs() + 0.5)", True, False),
    ("tw.maximum($a, $b)", True, False),
    ("tw.minimum($a, $b)", True, False),
    ("tw.lerp($a, $b, 0.25)", False, False),
    ("tw.atan2($a, $b.abs() + 1)", False, False),
    ("tw.addcmul($a, $b, $b)", False, False),
    ("tw.hypot($a, $b.abs() + 1)", False, False),
    ("$a % ($b.abs() + 1)", True, True),
    ("$a // ($b.abs() + 1)", True, True),
    ("tw.copysign($a, $b)", True, True),
    ("$a * $b + $b", True, False),
    ("tw.logaddexp($a, $b)", False, False),
    ("$a.where($a > $b, $b)", True, True),
    ("($a - $b).square()", True, False),
]

_COMPLEX = [
    "$z",
    "($z * 1j - 0.5)",
    "($z * $w)",
    "($z - $w * $z)",
    "($z / ($w.abs() + 0.5))",
    "($z / ($w * $w.conj() + 1))",
    "($z * 0.1).exp()",
    "($z * 0.1).expm1()",
    "($z * $z.conj() + 1 + $w * 0.1).log()",
    "($z * 0.01).log1p()",
    "($z * 0.1 + 2).sqrt()",
    "($z * 0.1 + 2).rsqrt()",
    "($z * 0.1).tanh()",
    "($z * 0.1).sigmoid()",
    "($z * 0.1).sin()",
    "($z * 0.1).cosh()",
    "($z * 0.02).atan()",
    "(($z * 0.1 + 3) ** 1.5)",
    "(($z * 0.1 + 3) ** ($w * 0.1))",
    "$z.sum(-1)",
    "$z.mean(0)",
    "$z.cumsum(-1)",
    "($z * 0.1 + 1).prod(-1)",
    "($z * 0.1 + 1).cumprod(0)",
    "($z @ $w.mT * 0.1)",
    "($z.mT @ $z * 0.1)",
    "tw.where($z.abs() < 2, $z, $w)",
    "tw.cat(($z, $w), -1)",
    "$z.mT.flip(0)[1:]",
    "$z.to(tw.complex64)",
]


def _broadcasts(a: Any, b: Any) -> bool:
    return all(m == n or m == 1 or n == 1 for m, n in zip(reversed(a), reversed(b), strict=False))


def _fits(a: Any, b: Any) -> bool:
    return len(a) <= len(b) and all(m in (1, n) for m, n in zip(reversed(a), reversed(b), strict=False))


def _tame(value: Any) -> bool:
    a = value.detach().numpy()
    if value.dtype.is_complex:
        return False
    a = a.astype(np.float64)
    return bool(np.all(np.isfinite(a)) and np.all(np.abs(a) < BOUND))


def _factor(rng: random.Random, size: int) -> tuple[int, ...]:
    out = []
    for n in (2, 3, 4, 5, 8, 17):
        if size % n == 0 and size and rng.random() < 0.5:
            out.append(n)
            size //= n
    out.append(size)
    if rng.random() < 0.3:
        out.append(1)
    rng.shuffle(out)
    return tuple(out)


def _slices(rng: random.Random, shape: tuple[int, ...]) -> str:
    parts = []
    for n in shape:
        kind = rng.random()
        if kind < 0.35:
            parts.append(":")
        elif kind < 0.5 and n:
            parts.append(str(rng.randrange(-n, n)))
        else:
            a = rng.choice(("", str(rng.randint(0, max(n - 1, 0)))))
            b = rng.choice(("", "-1" if n > 2 else "", str(rng.randint(1, n) if n else 0)))
            parts.append(f"{a}:{b}:{rng.choice((1, 1, 2, 3))}")
    if len(parts) > 1 and rng.random() < 0.15:
        parts = ["...", parts[-1]]
    return ", ".join(parts) or "..."
