"""Products by OpenBLAS (through numpy) and training steps by XLA (through jax), on one thread of a processor, told what to
compute a line at a time: the protocol stands at the head of src/turns.rs. The models are those of page/models.js."""

import json
import os
import sys
import time

import numpy as np


def product(m, k, n, folder):
    m, k, n = int(m), int(k), int(n)
    a = np.fromfile(os.path.join(folder, "a"), np.float32).reshape(m, k)
    b = np.fromfile(os.path.join(folder, "b"), np.float32).reshape(k, n)
    c = np.empty((m, n), np.float32)

    def run(count):
        for _ in range(count):
            np.matmul(a, b, out=c)

    run(1)
    c.tofile(os.path.join(folder, "c"))
    return run, "ready"


def logits(name, dims, p, x):
    """The model's output for a batch; parameters in the order of page/models.js."""
    import jax
    import jax.numpy as jnp

    if name == "mlp":
        h = x.reshape(64, 784)
        for i in (0, 2):
            h = jax.nn.relu(h @ p[i] + p[i + 1])
        return h @ p[4] + p[5]
    if name == "cnn":
        h = x.reshape(64, 28, 28, 1)
        for i in (0, 2):
            h = jax.lax.conv_general_dilated(h, p[i], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            h = jax.nn.relu(h + p[i + 1])
            batch, side, _, channels = h.shape
            h = h.reshape(batch, side // 2, 2, side // 2, 2, channels).max((2, 4))
        return h.reshape(64, 256) @ p[4] + p[5]
    time_, width, layers, heads, batch = (dims[d] for d in ("T", "D", "L", "H", "B"))

    def norm(h, gain, shift):
        centred = h - h.mean(-1, keepdims=True)
        return centred / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5) * gain + shift

    mask = jnp.triu(jnp.full((time_, time_), -1e9, jnp.float32), 1)
    h = (p[0][x].reshape(batch, time_, width) + p[1]).reshape(batch * time_, width)
    i = 2
    for _ in range(layers):
        qkv = norm(h, p[i], p[i + 1]) @ p[i + 2] + p[i + 3]
        q, k, v = qkv.reshape(batch, time_, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
        share = jax.nn.softmax(q @ k.swapaxes(-1, -2) / (width // heads) ** 0.5 + mask)
        h = h + (share @ v).transpose(0, 2, 1, 3).reshape(batch * time_, width) @ p[i + 4] + p[i + 5]
        u = norm(h, p[i + 6], p[i + 7]) @ p[i + 8] + p[i + 9]
        h = h + jax.nn.gelu(u, approximate=True) @ p[i + 10] + p[i + 11]
        i += 12
    return norm(h, p[i], p[i + 1]) @ p[i + 2]


def train(name, steps, folder):
    import jax
    import jax.numpy as jnp

    with open(os.path.join(folder, "model.json")) as file:
        told = json.load(file)
    dims, opt = told.get("dims"), told["opt"]
    read = lambda name, kind: np.fromfile(os.path.join(folder, name), kind)
    parameters = [jnp.asarray(read(f"p{i}", np.float32).reshape(s)) for i, s in enumerate(told["shapes"])]
    kind = np.int32 if name == "gpt" else np.float32
    batches = [(jnp.asarray(read(f"x{i}", kind)), jnp.asarray(read(f"y{i}", np.int32))) for i in range(told["batches"])]

    def loss(p, x, y):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits(name, dims, p, x)), y[:, None], 1))

    @jax.jit
    def step(state, x, y):
        p, first, second, count = state
        value, gradient = jax.value_and_grad(loss)(p, x, y)
        if opt["kind"] == "sgd":
            return ([p - opt["lr"] * g for p, g in zip(p, gradient)], first, second, count), value
        count = count + 1
        first = [opt["b1"] * m + (1 - opt["b1"]) * g for m, g in zip(first, gradient)]
        second = [opt["b2"] * v + (1 - opt["b2"]) * g * g for v, g in zip(second, gradient)]
        scale = [1 - opt["b1"] ** count, 1 - opt["b2"] ** count]
        change = [m / scale[0] / (jnp.sqrt(v / scale[1]) + opt["eps"]) for m, v in zip(first, second)]
        p = [p * (1 - opt["lr"] * opt["wd"]) - opt["lr"] * c for p, c in zip(p, change)]
        return (p, first, second, count), value

    zeros = [] if opt["kind"] == "sgd" else [jnp.zeros_like(p) for p in parameters]
    state, done, last = (parameters, zeros, zeros, jnp.asarray(0.0)), 0, None

    def run(count):
        nonlocal state, done, last
        for _ in range(count):
            state, last = step(state, *batches[done % len(batches)])
            done += 1
        state[0][-1].block_until_ready()

    losses = []
    for _ in range(int(steps)):
        run(1)
        losses.append(str(float(last)))
    return run, " ".join(losses)


def main():
    run = None
    for line in sys.stdin:
        word, *rest = line.split()
        try:
            if word == "run":
                begun, used = time.perf_counter(), time.process_time()
                run(int(rest[0]))
                answer = f"{(time.perf_counter() - begun) * 1e3} {(time.process_time() - used) * 1e3}"
            else:
                run, answer = {"product": product, "train": train}[word](*rest)
        except Exception as error:  # noqa: BLE001: whatever it is, the other side should say it
            answer = "error " + " ".join(str(error).split())
        print(answer, flush=True)


main()
