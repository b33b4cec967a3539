#!/usr/bin/env python3
"""Loads an exported model without any of this project's code and prints its accuracy on held-out pictures as JSON.

    check_export.py MODEL.safetensors TEST.safetensors [--scale S] [--offset O]

Needs numpy alone: the safetensors header is read by hand. The dense layers come from the tensor names
(`layers.{i}.weight`, `layers.{i}.bias`), with ReLU between them. `--scale` and `--offset` are those of the manifest's
input; the default is the demo job's, pictures of 0 to 255 scaled to 0 to 1. Exits with 1 and a sentence on anything
unexpected. It does not judge the accuracy.
"""

import argparse
import json
import re
import struct
import sys

import numpy as np

DTYPES = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}


def fail(reason):
    print(reason, file=sys.stderr)
    sys.exit(1)


def load(path):
    """Tensors of a safetensors file by name: 8 bytes of header length, a JSON header, then the values."""
    with open(path, "rb") as file:
        data = file.read()
    if len(data) < 8:
        fail(f"{path}: shorter than a header's length")
    (length,) = struct.unpack_from("<Q", data)
    if length > len(data) - 8:
        fail(f"{path}: the header is longer than the file")
    header = json.loads(data[8 : 8 + length])
    values = data[8 + length :]
    tensors, end = {}, 0
    for name, entry in sorted(
        ((n, e) for n, e in header.items() if n != "__metadata__"), key=lambda item: item[1]["data_offsets"]
    ):
        dtype, shape, (start, stop) = DTYPES.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
        if dtype is None:
            fail(f"{path}: tensor {name} has element type {entry['dtype']}")
        count = int(np.prod(shape, dtype=np.int64))
        if start != end or stop - start != count * dtype.itemsize or stop > len(values):
            fail(f"{path}: tensor {name} does not lie where the header says")
        tensors[name] = np.frombuffer(values, dtype, count, start).reshape(shape)
        end = stop
    if end != len(values):
        fail(f"{path}: {len(values) - end} bytes belong to no tensor")
    return tensors


def dense_layers(tensors):
    """Weight and bias of each dense layer in order."""
    names = [re.fullmatch(r"layers\.(\d+)\.(weight|bias)", name) for name in tensors]
    if not names or not all(names):
        fail(f"not a model of dense layers: tensors {sorted(tensors)}")
    layers = []
    for index in sorted({int(match[1]) for match in names}):
        try:
            weight, bias = tensors[f"layers.{index}.weight"], tensors[f"layers.{index}.bias"]
        except KeyError as missing:
            fail(f"layer {index} lacks {missing}")
        if weight.ndim != 2 or bias.shape != weight.shape[1:]:
            fail(f"layer {index}: weight {weight.shape} and bias {bias.shape} do not fit")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            fail(f"layer {index} holds NaN or infinity")
        layers.append((weight.astype(np.float64), bias.astype(np.float64)))
    return layers


def forward(layers, x):
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        if i + 1 < len(layers):
            x = np.maximum(x, 0.0)
    return x


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("test")
    parser.add_argument("--scale", type=float, default=1.0 / 255.0)
    parser.add_argument("--offset", type=float, default=0.0)
    args = parser.parse_args()
    layers, test = dense_layers(load(args.model)), load(args.test)
    if set(test) != {"x", "y"} or test["y"].ndim != 1 or len(test["x"]) != len(test["y"]) or len(test["y"]) == 0:
        fail(f"{args.test}: not examples: {({name: t.shape for name, t in test.items()})}")
    x = test["x"].reshape(len(test["x"]), -1).astype(np.float64) * args.scale + args.offset
    if x.shape[1] != layers[0][0].shape[0]:
        fail(f"the model takes {layers[0][0].shape[0]} values, an example has {x.shape[1]}")
    logits = forward(layers, x)
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(x)), test["y"]]
    accuracy = float((logits.argmax(axis=1) == test["y"]).mean())
    print(json.dumps({"accuracy": accuracy, "loss": float(losses.mean()), "examples": len(x), "layers": len(layers)}))


if __name__ == "__main__":
    main()
