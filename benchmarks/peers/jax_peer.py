"""JAX: the whole step in one jit, with donated buffers; pictures NHWC."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from . import Task, channels_last

LENGTH, HEADS, WIDTH = 128, 4, 256


def linear(p: Any, name: str, x: Any) -> Any:
    return x @ p[name + ".weight"] + p[name + ".bias"]


def conv(p: Any, name: str, x: Any, stride: int = 1, padding: int = 1) -> Any:
    dims = ("NHWC", "HWIO", "NHWC")
    pads = [(padding, padding)] * 2
    return lax.conv_general_dilated(x, p[name + ".weight"], (stride, stride), pads, dimension_numbers=dims)


def max_pool(x: Any) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def layer_norm(p: Any, name: str, x: Any) -> Any:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-5) * p[name + ".weight"] + p[name + ".bias"]


def mlp(p: Any, x: Any, train: bool) -> Any:
    x = jax.nn.relu(linear(p, "0", x))
    return linear(p, "4", jax.nn.relu(linear(p, "2", x))), {}


def cnn(p: Any, x: Any, train: bool) -> Any:
    x = max_pool(jax.nn.relu(conv(p, "0", x) + p["0.bias"]))
    x = max_pool(jax.nn.relu(conv(p, "3", x) + p["3.bias"]))
    return linear(p, "9", jax.nn.relu(linear(p, "7", x.reshape(len(x), -1)))), {}


def resnet18(p: Any, x: Any, train: bool) -> Any:
    new: dict[str, Any] = {}

    def norm(name: str, x: Any) -> Any:
        if train:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            n = x.size // x.shape[-1]
            new[name + ".running_mean"] = 0.9 * p[name + ".running_mean"] + 0.1 * mean
            new[name + ".running_var"] = 0.9 * p[name + ".running_var"] + 0.1 * var * (n / (n - 1))
        else:
            mean, var = p[name + ".running_mean"], p[name + ".running_var"]
        scale = lax.rsqrt(var + 1e-5) * p[name + ".weight"]
        return x * scale + (p[name + ".bias"] - mean * scale)

    x = jax.nn.relu(norm("1", conv(p, "0", x)))
    channels = 64
    for i, (out, stride) in enumerate(
        ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)), 3
    ):
        y = jax.nn.relu(norm(f"{i}.bn1", conv(p, f"{i}.conv1", x, stride)))
        y = norm(f"{i}.bn2", conv(p, f"{i}.conv2", y))
        if stride != 1 or channels != out:
            x = norm(f"{i}.short.1", conv(p, f"{i}.short.0", x, stride, 0))
        x, channels = jax.nn.relu(y + x), out
    return linear(p, "13", x.mean((1, 2))), new


def lstm(p: Any, x: Any, train: bool) -> Any:
    gates = x @ p["lstm.weight_ih_l0"] + (p["lstm.bias_ih_l0"] + p["lstm.bias_hh_l0"])
    zeros = jnp.zeros((x.shape[0], 128))

    def step(carry: Any, g: Any) -> Any:
        h, c = carry
        i, f, n, o = jnp.split(g + h @ p["lstm.weight_hh_l0"], 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(n)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), None

    (h, _), _ = lax.scan(step, (zeros, zeros), gates.swapaxes(0, 1))
    return linear(p, "fc", h), {}


def block(p: Any, name: str, x: Any, heads: int, causal: bool) -> Any:
    n, t, width = x.shape
    qkv = linear(p, name + ".qkv", layer_norm(p, name + ".norm1", x))
    q, k, v = (y.reshape(n, t, heads, width // heads) for y in jnp.split(qkv, 3, -1))
    y = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
    x = x + linear(p, name + ".out", y.reshape(n, t, width))
    y = jax.nn.gelu(linear(p, name + ".up", layer_norm(p, name + ".norm2", x)), approximate=False)
    return x + linear(p, name + ".down", y)


def transformer(p: Any, x: Any, train: bool) -> Any:
    for i in range(2):
        x = block(p, f"blocks.{i}", x, 4, False)
    return linear(p, "fc", x.mean(1)), {}


def gpt(p: Any, x: Any, train: bool) -> Any:
    h = p["tokens.weight"][x] + p["places.weight"]
    for i in range(4):
        h = block(p, f"blocks.{i}", h, HEADS, True)
    return (layer_norm(p, "norm", h) @ p["head.weight"]).reshape(-1, 256), {}


def tabular(p: Any, numbers: Any, categories: Any, train: bool) -> Any:
    columns = [p[f"tables.{i}.weight"][categories[:, i]] for i in range(26)]
    x = jnp.concatenate([numbers, *columns], 1)
    x = jax.nn.relu(linear(p, "layers.0", x))
    return linear(p, "layers.4", jax.nn.relu(linear(p, "layers.2", x)))[:, 0], {}


MODELS = {
    "mlp": mlp, "cnn": cnn, "cnn_adam": cnn, "resnet18": resnet18, "lstm": lstm,
    "transformer": transformer, "gpt": gpt, "tabular": tabular,
}  # fmt: skip


def loss_of(name: str, p: Any, batch: Any) -> Any:
    out, new = MODELS[name](p, *batch[:-1], train=True)
    if name == "tabular":
        return (jax.nn.softplus(out) - batch[-1] * out).mean(), new
    picked = jnp.take_along_axis(jax.nn.log_softmax(out), batch[-1][:, None], 1)
    return -picked.mean(), new


def adam(p: Any, g: Any, slots: Any, step: Any, decay: float) -> Any:
    m, v = slots
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    scale = jnp.sqrt(1 - 0.999**step)
    p = p * (1 - 1e-3 * decay) - 1e-3 / (1 - 0.9**step) * m / (jnp.sqrt(v) / scale + 1e-8)
    return p, (m, v)


def is_buffer(name: str) -> bool:
    return name.endswith(("running_mean", "running_var"))


class Jax:
    def _parameters(self, task: Task) -> dict[str, Any]:
        return {k: jnp.array(w) for k, w in channels_last.weights(task).items()}

    def train(self, task: Task) -> Callable[[], Any]:
        weights = self._parameters(task)
        params = {k: w for k, w in weights.items() if not is_buffer(k)}
        buffers = {k: w for k, w in weights.items() if is_buffer(k)}
        num_slots = 2 if task.uses_adam else 1
        slots = {k: tuple(jnp.zeros_like(w) for _ in range(num_slots)) for k, w in params.items()}
        decay = 0.01 if task.name == "gpt" else 0.0

        @partial(jax.jit, donate_argnums=(0, 1, 2, 3))
        def step(params: Any, buffers: Any, slots: Any, count: Any, batch: Any) -> Any:
            def loss(params: Any) -> Any:
                return loss_of(task.name, params | buffers, batch)

            (value, new), grads = jax.value_and_grad(loss, has_aux=True)(params)
            count = count + 1
            made = {}
            for k, g in grads.items():
                if task.uses_adam:
                    made[k] = adam(params[k], g, slots[k], count, decay)
                else:
                    moment = 0.9 * slots[k][0] + g
                    made[k] = params[k] - 0.01 * moment, (moment,)
            return (
                {k: m[0] for k, m in made.items()},
                buffers | new,
                {k: m[1] for k, m in made.items()},
                count,
                value,
            )

        batch = [jnp.array(a) for a in channels_last.batch(task)]
        state = [params, buffers, slots, jnp.zeros(())]

        def run() -> Any:
            *state[:], value = jax.block_until_ready(step(*state, batch))
            return value

        return run

    def infer(self, task: Task) -> Callable[[], Any]:
        params = self._parameters(task)
        inputs = [jnp.array(a) for a in channels_last.batch(task)[:-1]]
        forward = jax.jit(lambda p, *x: MODELS[task.name](p, *x, train=False)[0])
        return lambda: forward(params, *inputs).block_until_ready()

    def decode(self, task: Task) -> Callable[[], Any]:
        params = self._parameters(task)
        depth = WIDTH // HEADS

        @partial(jax.jit, donate_argnums=1)
        def step(p: Any, cache: Any, token: Any, place: Any) -> Any:
            h = p["tokens.weight"][token] + p["places.weight"][place]
            mask = jnp.arange(LENGTH) <= place
            made = []
            for i, (keys, values) in enumerate(cache):
                name = f"blocks.{i}"
                q, k, v = linear(p, name + ".qkv", layer_norm(p, name + ".norm1", h)).reshape(3, HEADS, depth)
                keys = lax.dynamic_update_slice(keys, k[None], (place, 0, 0))
                values = lax.dynamic_update_slice(values, v[None], (place, 0, 0))
                made.append((keys, values))
                scores = jnp.einsum("hd,thd->ht", q, keys) / depth**0.5
                scores = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))
                h = h + linear(p, name + ".out", jnp.einsum("ht,thd->hd", scores, values).reshape(WIDTH))
                y = jax.nn.gelu(linear(p, name + ".up", layer_norm(p, name + ".norm2", h)), approximate=False)
                h = h + linear(p, name + ".down", y)
            logits = layer_norm(p, "norm", h) @ p["head.weight"]
            return made, jnp.argmax(logits).astype(jnp.int32), place + 1

        cache = [(jnp.zeros((LENGTH, HEADS, depth)), jnp.zeros((LENGTH, HEADS, depth))) for _ in range(4)]
        first, start = jnp.array(0, jnp.int32), jnp.array(0, jnp.int32)
        state: list[Any] = [cache, first, start]
        count = 0

        def run() -> Any:
            nonlocal count
            state[:] = step(params, *state)
            token = state[1].block_until_ready()
            count += 1
            if count == LENGTH - 1:
                count, state[1:] = 0, [first, start]
            return token

        return run

    def chain(self, task: Task) -> Callable[[], Any]:
        x, y = (jnp.array(a) for a in task.batch)
        fn = jax.jit(lambda x, y: jnp.exp(jax.nn.relu(x * 2 + y)).sum())
        return lambda: fn(x, y).block_until_ready()
