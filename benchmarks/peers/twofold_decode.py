"""Greedy decoding of the benchmark's GPT with a key-value cache, one compiled call per token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import twofold as tw

LENGTH, HEADS, WIDTH = 128, 4, 256


def decoder(model: Any, compiled: Callable[[Any], Any]) -> Callable[[], Any]:
    """A function that gives the next token on each call; after the last place it begins anew."""
    depth = WIDTH // HEADS
    keys = [tw.zeros(HEADS, LENGTH, depth) for _ in model.blocks]
    values = [tw.zeros(HEADS, LENGTH, depth) for _ in model.blocks]
    places = tw.arange(LENGTH)

    @compiled
    def step(token: Any, place: Any) -> Any:
        h = model.tokens(token) + model.places(place)
        mask = places <= place
        for block, k, v in zip(model.blocks, keys, values, strict=True):
            q, new_k, new_v = block.qkv(block.norm1(h)).reshape(3, HEADS, 1, depth)
            k[:, place] = new_k
            v[:, place] = new_v
            y = tw.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            h = h + block.out(y.reshape(1, WIDTH))
            h = h + block.down(tw.nn.functional.gelu(block.up(block.norm2(h))))
        return model.head(model.norm(h)).argmax(-1)

    position = [tw.tensor([i]) for i in range(LENGTH)]
    first = tw.tensor([0])
    state = [first, 0]

    def run() -> Any:
        token, place = state
        with tw.no_grad():
            token = step(token, position[place])
        state[:] = (token, place + 1) if place + 1 < LENGTH - 1 else (first, 0)
        return token

    return run
