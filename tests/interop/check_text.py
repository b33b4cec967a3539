#!/usr/bin/env python3
"""Loads an exported model of text without any of this project's code and prints its bits per byte on held-out text as JSON.

    check_text.py MODEL.safetensors MANIFEST.json TEXT

Needs numpy alone. Written from docs/protocol.md: the layers of section 7, the windows of section 11. Exits with 1 and a
sentence on anything unexpected. It does not judge the figure.
"""

import json
import sys

import numpy as np

from check_export import fail, load


def held_out(text, positions, split):
    """Windows `[rows, positions]` of the end of a text, and the byte after each of theirs."""
    test = text[len(text) - len(text) * split["held_out_percent"] // 100 :]
    rows = (len(test) - 1) // positions
    x = test[: rows * positions].reshape(rows, positions)
    y = test[1 : rows * positions + 1].reshape(rows, positions)
    count = min(rows, split.get("evaluation_rows_max", rows))
    chosen = [i * rows // count for i in range(count)]
    return x[chosen], y[chosen]


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention(x, heads, get):
    rows, positions, channels = x.shape
    qkv = x @ get("qkv_weight") + get("qkv_bias")
    split = qkv.reshape(rows, positions, 3, heads, channels // heads).transpose(2, 0, 3, 1, 4)
    scores = split[0] @ split[1].swapaxes(-1, -2) / np.sqrt(channels // heads)
    scores[..., np.triu(np.ones((positions, positions), bool), 1)] = -np.inf
    mixed = (softmax(scores) @ split[2]).transpose(0, 2, 1, 3).reshape(x.shape)
    return mixed @ get("out_weight") + get("out_bias")


def layer(kind, x, get):
    """One layer's output; `get` gives its parameters by name."""
    match kind["type"]:
        case "embedding":
            return get("token")[x] + get("position")
        case "layer_norm":
            mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
            return (x - mean) / np.sqrt(variance + 1e-5) * get("gain") + get("shift")
        case "attention":
            return attention(x, kind["heads"], get)
        case "gelu":
            return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        case "relu":
            return np.maximum(x, 0)
        case "dense":
            return x @ get("weight") + get("bias")
        case "projection":
            return x @ get("weight")
        case other:
            fail(f"a layer of type {other}")


def forward(layers, tensors, x):
    branches = []
    for index, kind in enumerate(layers):
        if kind["type"] == "residual":
            branches.append((index + kind["layers"], x))
            continue
        x = layer(kind, x, lambda name, index=index: tensors.pop(f"layers.{index}.{name}").astype(np.float64))
        if branches and branches[-1][0] == index:
            x = x + branches.pop()[1]
    return x


def main():
    if len(sys.argv) != 4:
        fail(__doc__)
    with open(sys.argv[2], encoding="utf-8") as file:
        work = json.load(file)["work"]
    tensors, text = load(sys.argv[1]), np.fromfile(sys.argv[3], np.uint8)
    x, y = held_out(text, work["model"]["input"]["shape"][0], work["text"])
    try:
        logits = forward(work["model"]["layers"], tensors, x)
    except KeyError as missing:
        fail(f"the model lacks {missing}")
    if tensors:
        fail(f"tensors of no layer: {sorted(tensors)}")
    shifted = logits - logits.max(axis=-1, keepdims=True)
    of_answer = np.take_along_axis(shifted, y[..., None].astype(np.int64), axis=-1)[..., 0]
    losses = np.log(np.exp(shifted).sum(axis=-1)) - of_answer
    print(json.dumps({"bits_per_byte": float(losses.mean() / np.log(2)), "windows": len(x)}))


if __name__ == "__main__":
    main()
