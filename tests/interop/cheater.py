#!/usr/bin/env python3
"""A volunteer that cheats in training units, on the independent client and docs/protocol.md alone.

    cheater.py URL --job ID --cheat KIND

Leases a unit of the job with a fresh key, computes its update with numpy as the document says, returns something else and
waits for the verdict. Kinds: honest, lazy (zeros), noise, stale (the update of a unit of an earlier round), sign-flip, scaled.
A cheat must be rejected, and its key must get no more work; an honest update must be accepted. Prints one JSON line; exits
with 1 at a surprise. It knows dense layers, relu and sgd.
"""

import argparse
import hashlib
import json
import struct
import sys
import time

import numpy as np
from client import ACCEPTED, CBOR, DETAILS, OTHER, PENDING, Coordinator, Refused, Surprise, Volunteer, cbor, expect, say, sign, uncbor, verify

PATIENCE_S = 120
# The referee may be faster than we are.
ATTEMPTS = 8


def read_tensors(data):
    (length,) = struct.unpack_from("<Q", data)
    header, start = json.loads(data[8 : 8 + length]), 8 + length
    kinds = {"F32": "<f4", "U8": "<u1"}
    return {
        name: np.frombuffer(data[start + e["data_offsets"][0] : start + e["data_offsets"][1]], kinds[e["dtype"]]).reshape(e["shape"])
        for name, e in header.items()
        if name != "__metadata__"
    }


def write_tensors(tensors):
    header, raw = {}, b""
    for name, values in tensors.items():
        data = np.ascontiguousarray(values, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(raw), len(raw) + len(data)]}
        raw += data
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + raw


class TrainUnit:
    """A leased training unit."""

    def __init__(self, volunteer, data):
        self.volunteer, self.data = volunteer, data
        manifest = verify(data, "unit-manifest", volunteer.coordinator.key)
        self.unit, self.lease = manifest[2], manifest[3]
        self.every, self.states = manifest.get(9), []
        kind, work = manifest[7]
        expect(kind == 1, "not a training unit")
        self.model, self.checkpoint, self.shard, self.round, self.first_row, self.batch, self.steps, optimizer = (work[i] for i in range(8))
        expect(optimizer[0] == 0, "another optimiser than sgd")
        self.learning_rate, self.momentum, self.clip_norm = (*optimizer[1:], 0.0)[:3]

    def update(self):
        """The pseudo-gradient and the losses, section 7."""
        blob = self.volunteer.coordinator.blob
        start, shard = read_tensors(blob(self.checkpoint)), read_tensors(blob(self.shard))
        scale, offset = self.model[0][2], self.model[0][3]
        x, y = shard["x"].reshape(len(shard["x"]), -1).astype(np.float64) * scale + offset, shard["y"]
        p = {name: values.astype(np.float64) for name, values in start.items()}
        v = {name: np.zeros_like(values) for name, values in p.items()}
        losses, state = [], lambda: {**p, **{f"{name}.velocity": values for name, values in v.items()}}
        kept = lambda: {name: values.astype("<f4") for name, values in state().items()}
        for step in range(self.steps):
            if self.every and step % self.every == 0:
                self.states.append(kept())
            rows = (self.first_row + step * self.batch) % len(x)
            loss, gradient = self.gradient(p, x[rows : rows + self.batch], y[rows : rows + self.batch])
            losses.append(int(loss * 1e6))
            norm = np.sqrt(sum(float((values**2).sum()) for values in gradient.values()))
            if 0 < self.clip_norm < norm:
                gradient = {name: values * (self.clip_norm / norm) for name, values in gradient.items()}
            for name in p:
                v[name] = self.momentum * v[name] + gradient[name]
                p[name] = p[name] - self.learning_rate * v[name]
        delta = {name: (start[name] - p[name]).astype("<f4") for name in p}
        # Section 8: the last state is committed to with the parameters that follow from the output.
        self.states.append({**kept(), **{name: start[name] - delta[name] for name in p}})
        return delta, losses

    def gradient(self, p, x, labels):
        inputs = []
        for i, layer in enumerate(self.model[1]):
            inputs.append(x)
            expect(layer[0] in (0, 1), f"layer {layer}")
            x = x @ p[f"layers.{i}.weight"] + p[f"layers.{i}.bias"] if layer[0] == 0 else np.maximum(x, 0)
        share = np.exp(x - x.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        each = np.arange(len(labels))
        loss = -np.log(share[each, labels]).mean()
        share[each, labels] -= 1
        error, gradient = share / len(labels), {}
        for i, layer in reversed(list(enumerate(self.model[1]))):
            if layer[0] == 0:
                gradient[f"layers.{i}.weight"], gradient[f"layers.{i}.bias"] = inputs[i].T @ error, error.sum(axis=0)
                error = error @ p[f"layers.{i}.weight"].T
            else:
                error = error * (inputs[i] > 0)
        return loss, gradient

    def submit(self, delta, losses, more=None):
        data = write_tensors(delta)
        hash_ = hashlib.sha256(data).digest()
        self.volunteer.call("PUT", f"/v1/blobs/{hash_.hex()}?lease={self.lease}", data, "application/octet-stream")
        statement = {
            0: 1, 1: self.volunteer.job, 2: self.unit, 3: self.lease, 4: hashlib.sha256(self.data).digest(),
            5: [{0: "delta", 1: hash_, 2: len(data)}], 6: OTHER, 7: hashlib.sha256(DETAILS).digest(), 8: losses,
        }
        return sign(self.volunteer.key, "result", {**statement, **(more or {})})


class TrainVolunteer(Volunteer):
    def train_unit(self):
        """A training unit; waits until there is one."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            request = {0: 1, 1: OTHER, 2: self.job, 3: 64 * 1024 * 1024}
            manifests = uncbor(self.call("POST", "/v1/leases", cbor(request), CBOR)[1])[0]
            for data in manifests:
                if verify(data, "unit-manifest", self.coordinator.key)[7][0] == 1:
                    return TrainUnit(self, data)
                self.call("DELETE", f"/v1/leases/{verify(data, 'unit-manifest', self.coordinator.key)[3]}")
        raise Surprise("no training unit to lease")

    def verdict(self, body):
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = self.submit(body)
            if answer[2] != PENDING:
                return answer
            expect(time.monotonic() < deadline, "an update stays pending")


def cheat(kind, unit):
    delta, losses = unit.update()
    rng = np.random.default_rng(1)
    norm = np.sqrt(sum(float((values**2).sum()) for values in delta.values()))
    count = sum(values.size for values in delta.values())
    lies = {
        "honest": lambda d: d,
        "lazy": lambda d: np.zeros_like(d),
        "noise": lambda d: rng.normal(0, norm / np.sqrt(count), d.shape),
        "sign-flip": lambda d: -d,
        "scaled": lambda d: 3 * d,
    }
    return {name: lies[kind](values) for name, values in delta.items()}, losses


def stale(coordinator, job):
    """The right update of a unit that the key let go, for a unit of a later round."""
    volunteer = TrainVolunteer(coordinator, job)
    old = volunteer.train_unit()
    delta, losses = old.update()
    volunteer.call("DELETE", f"/v1/leases/{old.lease}")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        unit = volunteer.train_unit()
        if unit.round > old.round:
            return volunteer, unit, delta, losses
        expect(time.monotonic() < deadline, "the round does not end")
        volunteer.call("DELETE", f"/v1/leases/{unit.lease}")
        volunteer = TrainVolunteer(coordinator, job)


def attempt(coordinator, job, kind):
    """The answer to one result of this kind; none where the unit was settled before it came."""
    if kind == "stale":
        volunteer, unit, delta, losses = stale(coordinator, job)
    else:
        volunteer = TrainVolunteer(coordinator, job)
        unit = volunteer.train_unit()
        delta, losses = cheat(kind, unit)
    try:
        return volunteer, unit, volunteer.verdict(unit.submit(delta, losses))
    except Refused as refusal:
        expect(refusal.code == "unit_settled", f"{kind}: {refusal}")
        return None


def run(coordinator, job, kind):
    attempts = (attempt(coordinator, job, kind) for _ in range(ATTEMPTS))
    done = next((done for done in attempts if done), None)
    expect(done is not None, f"{kind}: every unit was settled before")
    volunteer, unit, answer = done
    say(kind, verdict=answer[2], reason=answer[3], unit=unit.unit)
    if kind == "honest":
        expect(answer[2] == ACCEPTED and answer[4] > 0, f"an honest update got {answer}")
        return
    expect(answer[2] != ACCEPTED and answer[3].startswith("disagrees:"), f"{kind}: {answer}")
    expect("quarantined_until_ms" in volunteer.view(), f"{kind}: not in quarantine")
    try:
        volunteer.lease()
    except Refused as refusal:
        expect(refusal.code == "quarantined", f"{kind}: {refusal}")
    else:
        raise Surprise(f"{kind}: a caught key gets work")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--job", type=int, required=True)
    parser.add_argument("--cheat", required=True, choices=["honest", "lazy", "noise", "stale", "sign-flip", "scaled"])
    args = parser.parse_args()
    try:
        run(Coordinator(args.url), args.job, args.cheat)
    except (Surprise, Refused) as surprise:
        print(f"{type(surprise).__name__}: {surprise}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
