"""Makes the gradients that the engine is compared with: `python tests/vectors/models.py [--check]`, with numpy.

An independent forward pass of the models that jobs train (docs/protocol.md, section 7), without a backward pass that
could be wrong: each derivative is the imaginary part of the loss at `p + ih`, divided by `h` (Squire, Trapp, Using
Complex Variables to Estimate Derivatives of Real Functions, SIAM Review 40, 1998). Nothing is subtracted, so that with
h = 1e-30 it is exact to the rounding of f64. ReLU and max pooling decide by real parts, and `Margin` sees to it that no
decision is close enough for f32 to fall the other way.

Dropout's masks come from Philox4x32-10 written again here, keyed by the hashes of a unit as section 7 says.

models.safetensors holds, for each model: its parameters (f32) and one batch, the mean loss, the gradient of every
parameter (f64), and the parameters after three steps on that batch: of AdamW without and with clipping, and of SGD with it.
`--check` compares with the committed file: values to 1e-11, since libraries of linear algebra sum in different orders.
crate/tests/suite/vectors.rs compares the engine's backends with it.
"""

import functools
import json
import pathlib
import struct
import sys

import numpy as np

FILE = pathlib.Path(__file__).parent / "models.safetensors"
STEP = 1e-30
MARGIN = 1e-4
STEPS = 3
RATES = {name: float(np.float32(value)) for name, value in {
    "learning_rate": 0.01, "beta1": 0.9, "beta2": 0.95, "epsilon": 0.01, "momentum": 0.5, "sgd_learning_rate": 0.25, "weight_decay": 0.1, "clip_norm": 0.25,
}.items()}


def dense(outputs):
    return {"type": "dense", "outputs": outputs}


def convolution(channels, kernel, stride, padding):
    return {"type": "convolution", "channels": channels, "kernel": kernel, "stride": stride, "padding": padding}


def dropout(rate):
    return {"type": "dropout", "rate": float(np.float32(rate))}


RELU, GELU, NORM = {"type": "relu"}, {"type": "gelu"}, {"type": "layer_norm"}
BLOCK = [
    {"type": "residual", "layers": 2}, NORM, {"type": "attention", "heads": 2},
    {"type": "residual", "layers": 4}, NORM, dense(16), GELU, dense(8),
]
# Input shape, rows of the batch, layers as in a job's manifest. Ids and images are drawn, not real.
MODELS = {
    "mlp": ([7], 6, [dense(9), RELU, dense(6), RELU, dense(4)]),
    "cnn": ([9, 8, 2], 4, [
        convolution(4, 3, 1, 1), RELU, {"type": "max_pool", "size": 3, "stride": 2},
        convolution(6, 3, 2, 1), RELU, {"type": "average_pool", "size": 2, "stride": 1}, dense(5),
    ]),
    "gpt": ([6], 3, [{"type": "embedding", "vocabulary": 13, "width": 8}, *BLOCK, *BLOCK, NORM,
                     {"type": "projection", "outputs": 13}]),
    "dropout": ([6], 3, [
        {"type": "embedding", "vocabulary": 5, "width": 8}, dropout(0.1),
        {"type": "residual", "layers": 3}, NORM, {"type": "attention", "heads": 2}, dropout(0.5),
        NORM, dense(7), RELU, dropout(0.3), dense(5),
    ]),
}
# Of the unit, for dropout; its first row is that of the batch after the next.
CHECKPOINT, SHARD = bytes(range(32)), bytes(range(100, 132))


def philox(counter, key):
    """Philox4x32-10 (Salmon et al., SC 2011)."""
    (a, b, c, d), (k0, k1), low = counter, key, 0xFFFFFFFF
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k0, q & low, (p >> 32) ^ d ^ k1, p & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return a, b, c, d


@functools.cache
def mask_of(rate, layer, step, shape):
    """What dropout multiplies an activation by."""
    count, first_row = int(np.prod(shape)), 2 * shape[0]
    key = struct.unpack("<2I", bytes(a ^ b for a, b in zip(CHECKPOINT[:8], SHARD[:8])))
    words = [word for i in range(-(-count // 4)) for word in philox((i, layer, step, first_row), key)]
    keep = np.array(words[:count]).reshape(shape) >= int(rate * 2**32)
    return np.where(keep, float(np.float32(1 / (1 - rate))), 0.0)


class Margin:
    """The closest decision of a forward pass."""

    def __init__(self):
        self.least = np.inf

    def see(self, gaps):
        self.least = min(self.least, float(np.min(gaps, initial=np.inf)))


def shapes_of(kind, layer, shape):
    """Parameters of one layer, by name, for an input of `shape`; and the shape of its output."""
    if kind in ("dense", "projection"):
        n = layer["outputs"]
        sequence = len(shape) == 2
        inputs = shape[1] if sequence else int(np.prod(shape))
        own = {"weight": (inputs, n), **({"bias": (n,)} if kind == "dense" else {})}
        return own, (shape[0], n) if sequence else (n,)
    if kind == "convolution":
        c, k = layer["channels"], layer["kernel"]
        out = [(extent + 2 * layer["padding"] - k) // layer["stride"] + 1 for extent in shape[:2]]
        return {"weight": (k, k, shape[2], c), "bias": (c,)}, (*out, c)
    if kind in ("max_pool", "average_pool"):
        return {}, (*((extent - layer["size"]) // layer["stride"] + 1 for extent in shape[:2]), shape[2])
    if kind == "embedding":
        v, w = layer["vocabulary"], layer["width"]
        return {"token": (v, w), "position": (shape[0], w)}, (shape[0], w)
    if kind == "layer_norm":
        return {"gain": (shape[-1],), "shift": (shape[-1],)}, shape
    if kind == "attention":
        c = shape[-1]
        return {"qkv_weight": (c, 3 * c), "qkv_bias": (3 * c,), "out_weight": (c, c), "out_bias": (c,)}, shape
    return {}, shape


def windows(x, size, stride):
    """`[batch, rows, columns, size, size, channels]` of an image `[batch, height, width, channels]`."""
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return np.moveaxis(view[:, ::stride, ::stride], 3, -1)


def attention(x, p, heads):
    batch, time, channels = x.shape
    qkv = (x @ p["qkv_weight"] + p["qkv_bias"]).reshape(batch, time, 3, heads, channels // heads)
    q, k, v = (qkv[:, :, part].transpose(0, 2, 1, 3) for part in range(3))
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(channels / heads)
    seen = np.tril(np.ones((time, time), bool))
    scores = scores - np.where(seen, scores.real, -np.inf).max(axis=-1, keepdims=True)
    weights = np.where(seen, np.exp(scores), 0)
    out = weights / weights.sum(axis=-1, keepdims=True) @ v
    return out.transpose(0, 2, 1, 3).reshape(batch, time, channels) @ p["out_weight"] + p["out_bias"]


def apply(kind, layer, p, x, margin):
    if kind == "dense":
        return (x if x.ndim == 3 else x.reshape(len(x), -1)) @ p["weight"] + p["bias"]
    if kind == "projection":
        return x @ p["weight"]
    if kind == "relu":
        margin.see(np.abs(x.real))
        return np.where(x.real > 0, x, 0)
    if kind == "convolution":
        pad = layer["padding"]
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        return np.einsum("bijklc,klco->bijo", windows(padded, layer["kernel"], layer["stride"]), p["weight"]) + p["bias"]
    if kind == "max_pool":
        w = windows(x, layer["size"], layer["stride"])
        w = np.moveaxis(w, -1, 3).reshape(*w.shape[:3], w.shape[-1], -1)
        order = np.argsort(w.real, axis=-1)
        best, second = (np.take_along_axis(w, order[..., [at]], -1)[..., 0] for at in (-1, -2))
        # Among zeros that ReLU left, which one wins changes nothing.
        margin.see(np.where(best.real > 0, (best - second).real, np.inf))
        return best
    if kind == "average_pool":
        return windows(x, layer["size"], layer["stride"]).mean(axis=(3, 4))
    if kind == "embedding":
        return p["token"][x] + p["position"]
    if kind == "layer_norm":
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5) * p["gain"] + p["shift"]
    if kind == "gelu":
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    assert kind == "attention", kind
    return attention(x, p, layer["heads"])


def loss_of(layers, parameters, x, y, margin, step=0):
    """Mean of -log softmax(logits)[label], in inner step `step`."""
    branch = None
    for index, layer in enumerate(layers):
        if layer["type"] == "residual":
            branch = (index + layer["layers"], x)
            continue
        prefix = f"layers.{index}."
        own = {name[len(prefix):]: value for name, value in parameters.items() if name.startswith(prefix)}
        if layer["type"] == "dropout":
            x = x * mask_of(layer["rate"], index, step, x.shape)
        else:
            x = apply(layer["type"], layer, own, x, margin)
        if branch and branch[0] == index:
            x = branch[1] + x
            branch = None
    logits, labels = x.reshape(-1, x.shape[-1]), y.reshape(-1)
    shifted = logits - logits.real.max(axis=-1, keepdims=True)
    return (np.log(np.exp(shifted).sum(axis=-1)) - shifted[np.arange(len(labels)), labels]).mean()


def gradient_of(layers, parameters, x, y, step=0):
    wide = {name: value.astype(np.complex128) for name, value in parameters.items()}
    gradients = {}
    for name, value in wide.items():
        gradient = np.empty(value.shape)
        for at in np.ndindex(value.shape):
            value[at] += 1j * STEP
            gradient[at] = loss_of(layers, wide, x, y, Margin(), step).imag / STEP
            value[at] = value[at].real
        gradients[name] = gradient
    return gradients


def clipped(gradients, clip_norm):
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    scale = clip_norm / norm if 0 < clip_norm < norm else 1.0
    assert clip_norm == 0 or scale < 1, "the vector with clipping must clip"
    return {name: g * scale for name, g in gradients.items()}


def sgd(layers, parameters, x, y, clip_norm):
    p = {name: value.astype(np.float64) for name, value in parameters.items()}
    v = {name: np.zeros(value.shape) for name, value in p.items()}
    for t in range(STEPS):
        for name, g in clipped(gradient_of(layers, p, x, y, t), clip_norm).items():
            v[name] = RATES["momentum"] * v[name] + g
        p = {name: value - RATES["sgd_learning_rate"] * v[name] for name, value in p.items()}
    return p


def adamw(layers, parameters, x, y, clip_norm):
    rate, beta1, beta2 = RATES["learning_rate"], RATES["beta1"], RATES["beta2"]
    p = {name: value.astype(np.float64) for name, value in parameters.items()}
    m, v = ({name: np.zeros(value.shape) for name, value in p.items()} for _ in range(2))
    for t in range(1, STEPS + 1):
        for name, g in clipped(gradient_of(layers, p, x, y, t - 1), clip_norm).items():
            m[name] = beta1 * m[name] + (1 - beta1) * g
            v[name] = beta2 * v[name] + (1 - beta2) * g**2
            change = m[name] / (1 - beta1**t) / (np.sqrt(v[name] / (1 - beta2**t)) + RATES["epsilon"])
            p[name] = p[name] - rate * (change + RATES["weight_decay"] * p[name])
    return p


def vectors_of(model, seed):
    shape, rows, layers = MODELS[model]
    random = np.random.Generator(np.random.PCG64(seed))
    parameters, extent = {}, tuple(shape)
    for index, layer in enumerate(layers):
        own, extent = shapes_of(layer["type"], layer, extent)
        for name, size in own.items():
            fan_in = np.prod(size[:-1]) if len(size) > 1 and name.endswith("weight") else 4
            around = 1.0 if name == "gain" else 0.0
            value = around + random.standard_normal(size) / np.sqrt(fan_in)
            parameters[f"layers.{index}.{name}"] = value.astype(np.float32)
    classes = layers[-1]["outputs"]
    if layers[0]["type"] == "embedding":
        x = random.integers(0, layers[0]["vocabulary"], (rows, *shape)).astype(np.uint8)
        y = random.integers(0, classes, (rows, *shape)).astype(np.uint8)
    else:
        x = random.standard_normal((rows, *shape)).astype(np.float32)
        y = random.integers(0, classes, rows).astype(np.uint8)
    margin = Margin()
    loss = loss_of(layers, {name: value.astype(np.complex128) for name, value in parameters.items()}, x, y, margin)
    assert margin.least > MARGIN, f"{model}: a decision as close as {margin.least}; take another seed"
    assert loss.imag == 0
    made = {f"{model}/x": x, f"{model}/y": y, f"{model}/loss": np.array([loss.real])}
    sets = {
        "parameters": parameters,
        "gradient": gradient_of(layers, parameters, x, y),
        "adamw": adamw(layers, parameters, x, y, 0.0),
        "clipped": adamw(layers, parameters, x, y, RATES["clip_norm"]),
        "clipped-sgd": sgd(layers, parameters, x, y, RATES["clip_norm"]),
    }
    for kind, tensors in sets.items():
        made.update({f"{model}/{kind}/{name}": value for name, value in tensors.items()})
    return made


DTYPES = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "U8": np.dtype("u1")}


def serialized(tensors):
    """Safetensors: widest elements first, so that each begins at a multiple of its size, then by name."""
    kinds = {dtype: name for name, dtype in DTYPES.items()}
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header, values = {}, b""
    for name in order:
        data = np.ascontiguousarray(tensors[name]).tobytes()
        header[name] = {
            "dtype": kinds[tensors[name].dtype], "shape": list(tensors[name].shape),
            "data_offsets": [len(values), len(values) + len(data)],
        }
        values += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + values


def parsed(data):
    (length,) = struct.unpack_from("<Q", data)
    header, values = json.loads(data[8 : 8 + length]), data[8 + length :]
    return {
        name: np.frombuffer(values[slice(*entry["data_offsets"])], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
    }


def compare(made, committed):
    assert set(made) == set(committed), sorted(set(made) ^ set(committed))
    for name, value in made.items():
        other = committed[name]
        assert value.shape == other.shape and value.dtype == other.dtype, name
        exact = value.dtype != np.float64
        close = np.array_equal(value, other) if exact else np.allclose(value, other, rtol=1e-11, atol=1e-14)
        assert close, f"{name} is not what this script makes"


def main(check):
    tensors = {}
    for seed, model in enumerate(MODELS, 1):
        tensors.update(vectors_of(model, seed))
    if check:
        compare(tensors, parsed(FILE.read_bytes()))
    else:
        FILE.write_bytes(serialized(tensors))


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
