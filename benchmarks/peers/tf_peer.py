"""TensorFlow: tf.function, TensorFlow's own fused optimizer kernels, pictures NHWC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from . import Task, channels_last

Variables = dict[str, Any]


def linear(p: Variables, name: str, x: Any) -> Any:
    return tf.linalg.matmul(x, p[name + ".weight"]) + p[name + ".bias"]


def rows_linear(p: Variables, name: str, x: Any) -> Any:
    """Of (n, t, width), as one matrix product."""
    n, t, width = x.shape
    return tf.reshape(linear(p, name, tf.reshape(x, (-1, width))), (n, t, -1))


def conv(p: Variables, name: str, x: Any, stride: int = 1, padding: int = 1) -> Any:
    pads = [[0, 0], [padding, padding], [padding, padding], [0, 0]]
    return tf.nn.conv2d(x, p[name + ".weight"], stride, pads)


def layer_norm(p: Variables, name: str, x: Any) -> Any:
    mean, var = tf.nn.moments(x, -1, keepdims=True)
    return tf.nn.batch_normalization(x, mean, var, p[name + ".bias"], p[name + ".weight"], 1e-5)


def mlp(p: Variables, x: Any, train: bool) -> Any:
    x = tf.nn.relu(linear(p, "0", x))
    return linear(p, "4", tf.nn.relu(linear(p, "2", x)))


def cnn(p: Variables, x: Any, train: bool) -> Any:
    x = tf.nn.max_pool2d(tf.nn.relu(tf.nn.bias_add(conv(p, "0", x), p["0.bias"])), 2, 2, "VALID")
    x = tf.nn.max_pool2d(tf.nn.relu(tf.nn.bias_add(conv(p, "3", x), p["3.bias"])), 2, 2, "VALID")
    return linear(p, "9", tf.nn.relu(linear(p, "7", tf.reshape(x, (x.shape[0], -1)))))


def resnet18(p: Variables, x: Any, train: bool) -> Any:
    def norm(name: str, x: Any) -> Any:
        mean, var = p[name + ".running_mean"], p[name + ".running_var"]
        empty = [] if train else None
        y, *made = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=p[name + ".weight"],
            offset=p[name + ".bias"],
            mean=mean if empty is None else empty,
            variance=var if empty is None else empty,
            epsilon=1e-5,
            is_training=train,
        )
        if train:
            mean.assign(0.9 * mean + 0.1 * made[0])
            var.assign(0.9 * var + 0.1 * made[1])
        return y

    x = tf.nn.relu(norm("1", conv(p, "0", x)))
    channels = 64
    for i, (out, stride) in enumerate(
        ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)), 3
    ):
        y = tf.nn.relu(norm(f"{i}.bn1", conv(p, f"{i}.conv1", x, stride)))
        y = norm(f"{i}.bn2", conv(p, f"{i}.conv2", y))
        if stride != 1 or channels != out:
            x = norm(f"{i}.short.1", conv(p, f"{i}.short.0", x, stride, 0))
        x, channels = tf.nn.relu(y + x), out
    return linear(p, "13", tf.reduce_mean(x, (1, 2)))


def lstm(p: Variables, x: Any, train: bool) -> Any:
    n, t, width = x.shape
    gates = tf.linalg.matmul(tf.reshape(x, (-1, width)), p["lstm.weight_ih_l0"])
    gates = tf.reshape(gates + (p["lstm.bias_ih_l0"] + p["lstm.bias_hh_l0"]), (n, t, 512))
    h = c = tf.zeros((n, 128))
    for step in tf.unstack(gates, axis=1):
        i, f, g, o = tf.split(step + tf.linalg.matmul(h, p["lstm.weight_hh_l0"]), 4, 1)
        c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
        h = tf.sigmoid(o) * tf.tanh(c)
    return linear(p, "fc", h)


def block(p: Variables, name: str, x: Any, heads: int, causal: bool) -> Any:
    n, t, width = x.shape
    qkv = rows_linear(p, name + ".qkv", layer_norm(p, name + ".norm1", x))
    qkv = tf.transpose(tf.reshape(qkv, (n, t, 3, heads, width // heads)), (2, 0, 3, 1, 4))
    q, k, v = tf.unstack(qkv)
    scores = tf.linalg.matmul(q, k, transpose_b=True) * (width // heads) ** -0.5
    if causal:
        scores += np.triu(np.full((t, t), -1e30, np.float32), 1)
    y = tf.transpose(tf.linalg.matmul(tf.nn.softmax(scores), v), (0, 2, 1, 3))
    x = x + rows_linear(p, name + ".out", tf.reshape(y, (n, t, width)))
    y = tf.nn.gelu(rows_linear(p, name + ".up", layer_norm(p, name + ".norm2", x)), approximate=False)
    return x + rows_linear(p, name + ".down", y)


def transformer(p: Variables, x: Any, train: bool) -> Any:
    for i in range(2):
        x = block(p, f"blocks.{i}", x, 4, False)
    return linear(p, "fc", tf.reduce_mean(x, 1))


def gpt(p: Variables, x: Any, train: bool) -> Any:
    h = tf.gather(p["tokens.weight"], x) + p["places.weight"]
    for i in range(4):
        h = block(p, f"blocks.{i}", h, 4, True)
    return tf.linalg.matmul(tf.reshape(layer_norm(p, "norm", h), (-1, 256)), p["head.weight"])


def tabular(p: Variables, numbers: Any, categories: Any, train: bool) -> Any:
    columns = [tf.gather(p[f"tables.{i}.weight"], categories[:, i]) for i in range(26)]
    x = tf.nn.relu(linear(p, "layers.0", tf.concat([numbers, *columns], 1)))
    return linear(p, "layers.4", tf.nn.relu(linear(p, "layers.2", x)))[:, 0]


MODELS = {
    "mlp": mlp, "cnn": cnn, "cnn_adam": cnn, "resnet18": resnet18, "lstm": lstm,
    "transformer": transformer, "gpt": gpt, "tabular": tabular,
}  # fmt: skip


def loss_of(name: str, out: Any, target: Any) -> Any:
    if name == "tabular":
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(target, out))
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(target, out))


class TensorFlow:
    def _variables(self, task: Task) -> Variables:
        tf.config.threading.set_intra_op_parallelism_threads(task.threads)
        tf.config.threading.set_inter_op_parallelism_threads(task.threads)
        return {k: tf.Variable(w) for k, w in channels_last.weights(task).items()}

    def train(self, task: Task) -> Callable[[], Any]:
        p = self._variables(task)
        trained = {k: v for k, v in p.items() if not k.endswith(("running_mean", "running_var"))}
        slots = {k: [tf.Variable(tf.zeros_like(v)) for _ in range(2)] for k, v in trained.items()}
        powers = [tf.Variable(0.9), tf.Variable(0.999)]
        batch = [tf.constant(a) for a in channels_last.batch(task)]

        def update(k: str, v: Any, g: Any) -> None:
            if not task.uses_adam:
                tf.raw_ops.ResourceApplyMomentum(
                    var=v.handle, accum=slots[k][0].handle, lr=0.01, grad=g, momentum=0.9
                )
                return
            if task.name == "gpt":
                v.assign(v * (1 - 1e-3 * 0.01))
            tf.raw_ops.ResourceApplyAdam(
                var=v.handle,
                m=slots[k][0].handle,
                v=slots[k][1].handle,
                beta1_power=powers[0],
                beta2_power=powers[1],
                lr=1e-3,
                beta1=0.9,
                beta2=0.999,
                epsilon=1e-8,
                grad=g,
            )

        @tf.function
        def step(*batch: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = loss_of(task.name, MODELS[task.name](p, *batch[:-1], train=True), batch[-1])
            grads = tape.gradient(loss, list(trained.values()))
            for (k, v), g in zip(trained.items(), grads, strict=True):
                update(k, v, tf.convert_to_tensor(g))
            powers[0].assign(powers[0] * 0.9)
            powers[1].assign(powers[1] * 0.999)
            return loss

        return lambda: step(*batch)

    def infer(self, task: Task) -> Callable[[], Any]:
        p = self._variables(task)
        inputs = [tf.constant(a) for a in channels_last.batch(task)[:-1]]
        forward = tf.function(lambda *x: MODELS[task.name](p, *x, train=False))
        return lambda: forward(*inputs)

    def chain(self, task: Task) -> Callable[[], Any]:
        tf.config.threading.set_intra_op_parallelism_threads(task.threads)
        x, y = (tf.constant(a) for a in task.batch)
        fn = tf.function(lambda x, y: tf.reduce_sum(tf.exp(tf.nn.relu(x * 2 + y))))
        return lambda: fn(x, y)
