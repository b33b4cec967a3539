"""The byte-level transformer of `manyhands-bench-native gpu` as training steps of PyTorch in f32, eager, without TF32, on
the machine's CUDA device; and its products. Reads what the native program left in a folder (`model.json`, the parameters
`p0`, `p1`, … in the model's order, the ids `x` and `y`) and prints one JSON object: `{device, torch, losses, step_ms,
products}`, times as sorted lists of milliseconds. Without PyTorch or a CUDA device it prints `{"skipped": reason}`."""

import json
import os
import sys


def main(folder):
    try:
        import torch
    except ImportError:
        return {"skipped": "PyTorch is not installed"}
    if not torch.cuda.is_available():
        return {"skipped": "PyTorch sees no CUDA device"}
    import torch.nn.functional as F

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    device = torch.device("cuda")
    with open(os.path.join(folder, "model.json")) as file:
        told = json.load(file)
    time, width, layers, heads, batch, vocabulary = (told[d] for d in ("time", "width", "layers", "heads", "batch", "vocabulary"))

    def read(name, dtype):
        with open(os.path.join(folder, name), "rb") as file:
            return torch.frombuffer(bytearray(file.read()), dtype=dtype).to(device)

    shapes = [(vocabulary, width), (time, width)]
    for _ in range(layers):
        shapes += [(width,), (width,), (width, 3 * width), (3 * width,), (width, width), (width,)]
        shapes += [(width,), (width,), (width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    shapes += [(width,), (width,), (width, vocabulary)]
    p = [read(f"p{i}", torch.float32).reshape(shape).requires_grad_() for i, shape in enumerate(shapes)]
    x = read("x", torch.int32).long().reshape(-1, batch, time)
    y = read("y", torch.int32).long().reshape(-1, batch * time)
    rates = told["adamw"]
    options = {"lr": rates["learning_rate"], "betas": (rates["beta1"], rates["beta2"]), "eps": rates["epsilon"]}
    optimizer = torch.optim.AdamW(p, weight_decay=rates["weight_decay"], **options)

    def logits(ids):
        h = p[0][ids] + p[1]
        i = 2
        for _ in range(layers):
            u = F.layer_norm(h, (width,), p[i], p[i + 1])
            q, k, v = (u @ p[i + 2] + p[i + 3]).reshape(batch, time, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            u = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = h + u.transpose(1, 2).reshape(batch, time, width) @ p[i + 4] + p[i + 5]
            u = F.layer_norm(h, (width,), p[i + 6], p[i + 7])
            u = F.gelu(u @ p[i + 8] + p[i + 9], approximate="tanh")
            h = h + u @ p[i + 10] + p[i + 11]
            i += 12
        return F.layer_norm(h, (width,), p[i], p[i + 1]) @ p[i + 2]

    done = 0

    def step():
        nonlocal done
        optimizer.zero_grad(set_to_none=True)
        at = done % len(x)
        loss = F.cross_entropy(logits(x[at]).reshape(batch * time, vocabulary), y[at])
        loss.backward()
        optimizer.step()
        done += 1
        return loss.detach()

    def times(call, count, samples):
        """Milliseconds of one call, over so many samples of `count` calls each."""
        found = []
        for _ in range(samples):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(count):
                call()
            end.record()
            torch.cuda.synchronize()
            found.append(begin.elapsed_time(end) / count)
        return sorted(found)

    losses = [float(step()) for _ in range(told["losses"])]
    times(step, 5, 1)
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "losses": losses}
    result["step_ms"] = times(step, told["steps"], told["samples"])
    result["products"] = []
    for m, k, n in told["products"]:
        a, b = torch.randn(m, k, device=device), torch.randn(k, n, device=device)
        count = max(3, min(500, int(4e11 / (2 * m * k * n))))
        times(lambda: a @ b, count, 1)
        result["products"].append({"m": m, "k": k, "n": n, "ms": times(lambda: a @ b, count, told["samples"])})
    return result


print(json.dumps(main(sys.argv[1])))
