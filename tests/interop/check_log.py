#!/usr/bin/env python3
"""Checks a coordinator's whole public log, written from docs/ledger.md alone: no code of Many Hands is used or read.

    check_log.py URL [--model FILE] [--seen FILE] [--witness-key KEY]

Reads the checkpoint, every tile and every entry; checks every signature, every tile's hashes, the root, a receipt for each
entry, and growth from every earlier size, with proofs that it computes from the tiles alone. Recomputes all credit. With
`--model` it walks from the file back to its job. With `--seen` it keeps the checkpoint in that file, and takes a later one only
with proof that it continues the kept one. With `--witness-key` the checkpoint must be cosigned by that witness. Prints one JSON line per step and exits with 1 at the first surprise.
"""

import argparse
import base64
import hashlib
import http.client
import json
import pathlib
import struct
import sys
import urllib.parse

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TIMEOUT_S = 60
WIDTH = 256


class Surprise(Exception):
    """The log is not what the document says."""


def expect(ok, what):
    if not ok:
        raise Surprise(what)


def say(step, **facts):
    print(json.dumps({"step": step, **facts}), flush=True)


def cbor(value):
    return cbor2.dumps(value, canonical=True)


def uncbor(data):
    value = cbor2.loads(data)
    expect(cbor(value) == data, "not in deterministic encoding")
    return value


def signed_by(key, signature, message):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        return True
    except InvalidSignature:
        return False


# --- section 3: the tree ------------------------------------------------------------------------------------------


def leaf_hash(entry):
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(count):
    """The largest power of two below count."""
    return 1 << ((count - 1).bit_length() - 1)


class Tree:
    """Hashes of ranges of leaves, out of tiles."""

    def __init__(self, size, tile):
        self.size, self.tile, self.known = size, tile, {}

    def hash(self, start, stop):
        if start == stop:
            return hashlib.sha256(b"").digest()
        key = (start, stop)
        if key not in self.known:
            count = stop - start
            level = max(l for l in range(8) if count >= WIDTH**l)
            # A perfect subtree that is one hash of a tile.
            if count == WIDTH**level and start % count == 0:
                at = start // count
                self.known[key] = self.tile(level, at // WIDTH)[at % WIDTH]
            else:
                middle = start + split(count)
                self.known[key] = node_hash(self.hash(start, middle), self.hash(middle, stop))
        return self.known[key]

    def inclusion(self, index, size):
        start, stop, path = 0, size, []
        while stop - start > 1:
            middle = start + split(stop - start)
            if index < middle:
                path.append(self.hash(middle, stop))
                stop = middle
            else:
                path.append(self.hash(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, first, size):
        start, stop, whole, path = 0, size, True, []
        while 0 < first < stop:
            middle = start + split(stop - start)
            if first <= middle:
                path.append(self.hash(middle, stop))
                stop = middle
            else:
                path.append(self.hash(start, middle))
                start, whole = middle, False
        if not whole:
            path.append(self.hash(start, stop))
        return path[::-1]


def root_by_inclusion(index, size, leaf, path):
    """RFC 9162 section 2.1.3.2."""
    fn, sn, r = index, size - 1, leaf
    for p in path:
        expect(sn != 0, "a path that is too long")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    expect(sn == 0, "a path that is too short")
    return r


def is_consistent(first, first_root, size, root, path):
    """RFC 9162 section 2.1.4.2."""
    if first in (0, size):
        return not path and (first == 0 or first_root == root)
    if first & (first - 1) == 0:
        path = [first_root, *path]
    if not path:
        return False
    fn, sn = first - 1, size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == first_root and sr == root


# --- sections 4 to 6: reading -------------------------------------------------------------------------------------


def grouped(number):
    groups = [f"{number % 1000:03}"]
    while number := number // 1000:
        groups.insert(0, f"x{number % 1000:03}")
    return "/".join(groups)


class Log:
    def __init__(self, url, witness=None):
        parts = urllib.parse.urlsplit(url)
        expect(parts.scheme == "http", "this reader speaks plain HTTP, to loopback")
        self.host = parts.netloc
        self.key = bytes.fromhex(json.loads(self.get("/v1/info"))["key"])
        self.origin = f"manyhands/{self.key.hex()}"
        self.note = self.get("/v1/log/checkpoint" + ("?cosignatures=1" if witness else "")).decode()
        self.size, self.root = self.checkpoint(self.note)
        if witness:
            say("cosigned", time_s=cosigned(self.note, witness))
        self.tiles = {}
        self.tree = Tree(self.size, self.tile)

    def get(self, path):
        connection = http.client.HTTPConnection(self.host, timeout=TIMEOUT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        expect(response.status == 200, f"GET {path}: {response.status} {data[:200]}")
        return data

    def checkpoint(self, note):
        """Size and root, if this log signed them."""
        text, lines = note.rsplit("\n\n", 1)
        text += "\n"
        key_hash = hashlib.sha256(self.origin.encode() + b"\n\x01" + self.key).digest()[:4]
        signatures = []
        for line in lines.splitlines():
            dash, name, data = line.split(" ")
            expect(dash == "\u2014", "a line that is no signature")
            data = base64.b64decode(data, validate=True)
            if name == self.origin and data[:4] == key_hash:
                signatures.append(data[4:])
        expect(len(signatures) == 1 and signed_by(self.key, signatures[0], text.encode()), "a checkpoint that is not signed")
        origin, size, root = text.splitlines()
        expect(origin == self.origin and str(int(size)) == size, "a checkpoint of another form")
        return int(size), base64.b64decode(root, validate=True)

    def part(self, kind, number, count):
        width = min(WIDTH, count - number * WIDTH)
        return self.get(f"/v1/log/tile/{kind}/{grouped(number)}" + ("" if width == WIDTH else f".p/{width}")), width

    def tile(self, level, number):
        if (level, number) not in self.tiles:
            data, width = self.part(level, number, self.size // WIDTH**level)
            expect(len(data) == 32 * width, "a tile of another length")
            self.tiles[level, number] = [data[i : i + 32] for i in range(0, len(data), 32)]
        return self.tiles[level, number]

    def entries(self):
        entries = []
        for number in range(-(-self.size // WIDTH)):
            data, width = self.part("entries", number, self.size)
            at = 0
            for _ in range(width):
                length = int.from_bytes(data[at : at + 2], "big")
                entries.append(data[at + 2 : at + 2 + length])
                at += 2 + length
            expect(at == len(data), "a bundle of another length")
        return entries

    def receipt(self, data, root):
        """Kind and parts of a receipt over this root."""
        envelope = uncbor(data)
        expect(envelope.tag == 18, "a receipt that is no COSE_Sign1")
        protected, unprotected, payload, signature = envelope.value
        expect(uncbor(protected) == {1: -8, 4: self.key, 395: 1}, "another protected header")
        expect(payload is None, "a receipt with a payload")
        expect(signed_by(self.key, signature, cbor(["Signature1", protected, b"", root])), "a receipt that is not signed")
        ((label, proofs),) = unprotected.items()
        ((kind, (proof,)),) = proofs.items()
        expect(label == 396, "another unprotected header")
        return kind, uncbor(proof)


def cosigned(note, witness):
    """When the witness with this verifier key says that it signed the note."""
    name, key_hash, key = witness.split("+", 2)
    key = base64.b64decode(key, validate=True)
    expect(key[0] == 4 and len(key) == 33, "a key that is no witness's")
    expect(hashlib.sha256(name.encode() + b"\n" + key).digest()[:4].hex() == key_hash, "a key with another's hash")
    text, lines = note.rsplit("\n\n", 1)
    for line in lines.splitlines():
        _, signer, data = line.split(" ")
        data = base64.b64decode(data, validate=True)
        if (signer, data[:4].hex(), len(data)) == (name, key_hash, 4 + 8 + 64):
            time = int.from_bytes(data[4:12], "big")
            expect(signed_by(key[1:], data[12:], f"cosignature/v1\ntime {time}\n{text}\n".encode()), "a false cosignature")
            return time
    raise Surprise("the witness did not cosign the checkpoint")


def open_entry(entry, key=None):
    """Kind, signer and payload of a signed statement."""
    envelope = uncbor(entry)
    expect(envelope.tag == 18, "an entry that is no COSE_Sign1")
    protected, unprotected, payload, signature = envelope.value
    header = uncbor(protected)
    expect(set(header) == {1, 3, 4} and header[1] == -8 and dict(unprotected) == {}, "other headers")
    expect(key in (None, header[4]), "an entry by another key")
    expect(signed_by(header[4], signature, cbor(["Signature1", protected, b"", payload])), "an entry that is not signed")
    kind = header[3].removeprefix("application/vnd.manyhands.").removesuffix("+cbor")
    return kind, header[4], uncbor(payload)


# --- section 8: credit --------------------------------------------------------------------------------------------


def flop(work):
    kind, fields = work
    if kind == 0:
        return 2 * fields[2] * fields[3] * fields[4]
    return 3 * forward_flop(fields[0]) * fields[5] * fields[6]


def forward_flop(model):
    """Of one example (docs/protocol.md section 7)."""
    shape, layers = list(model[0][0]), model[1]
    image = len(shape) == 3
    total = 0
    sequence = bool(layers) and layers[0][0] == 5
    rows, channels = (shape[0], 0) if sequence else (1, 0)
    values = 1
    for extent in shape:
        values *= extent
    for kind, *p in layers:
        if kind in (0, 10):
            inputs = channels if sequence else values
            total += 2 * rows * inputs * p[0]
            channels, values, image = p[0], rows * p[0], False
        elif kind in (2, 3, 4):
            height, width, depth = shape
            if kind == 2:
                out, kernel, stride, padding = p
            else:
                out, kernel, stride, padding = depth, p[0], p[1], 0
            shape = [(height + 2 * padding - kernel) // stride + 1, (width + 2 * padding - kernel) // stride + 1, out]
            values = shape[0] * shape[1] * shape[2]
            if kind == 2:
                total += 2 * values * kernel * kernel * depth
        elif kind == 5:
            channels, values = p[1], rows * p[1]
        elif kind == 8:
            total += 8 * rows * channels * channels + 2 * rows * (rows + 1) * channels
    return total


def check_result(payload):
    """The volunteer's key and its points."""
    kind, key, result = open_entry(payload[3])
    expect(kind == "result" and result[1] == payload[1] and result[2] == payload[2], "a result of another unit")
    expect(set(result) <= {0, 1, 2, 3, 4, 5, 6, 7, 8, 9} and isinstance(result[6], int), "a result that tells more than it may")
    credit = payload[6]
    expect(credit[0] == flop(payload[4]), f"credit {credit} for {payload[4][0]}")
    expect(credit[1] == sum(output[2] for output in result[5]), "credit for other bytes")
    return key, credit[0] // 10**6 + credit[1] // 10**3


# --- section 9: from a model back ---------------------------------------------------------------------------------


def check_work(work, recipe, data, checkpoint, round, at):
    """That a unit is what the manifest makes the unit at this place of the round; the model alone is not compared."""
    kind, fields = work
    turn = round * recipe["units_per_round"] + at
    rows, steps, batch = recipe["rows_per_shard"], recipe["inner_steps"], recipe["batch"]
    first_row = turn // len(data) % rows * steps * batch % rows
    expected = {1: checkpoint, 2: data[turn % len(data)], 3: round, 4: first_row, 5: batch, 6: steps}
    expect(kind == 1 and {at: fields[at] for at in expected} == expected, f"a unit of other work: {fields}")
    optimizer = recipe["inner_optimizer"]
    names = {"sgd": ["learning_rate", "momentum"],
             "adamw": ["learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "clip_norm"]}[optimizer["type"]]
    if optimizer["type"] == "sgd" and optimizer.get("clip_norm"):
        names = [*names, "clip_norm"]
    same = all(struct.pack("<f", a) == struct.pack("<f", optimizer[name]) for a, name in zip(fields[7][1:], names, strict=True))
    expect(same and fields[7][0] == (optimizer["type"] == "adamw"), "a unit of another optimizer")


def provenance(statements, results, file):
    """What shaped a model: rounds, units, keys, shards, jobs."""
    digest = hashlib.sha256(file).digest()
    of = lambda kind: [payload for name, payload in statements if name == kind]
    state, round = next(((c[3], c[2]) for c in of("log-checkpoint") if c[3][0] == digest), (None, 0))
    expect(state is not None, "no checkpoint in the log is this file")
    job = next(c[1] for c in of("log-checkpoint") if c[3] == state)
    logged = [j for j in of("log-job") if j[1] == job]
    expect(logged, "no job in the log")
    recipe = json.loads(logged[0][2])["work"]
    inputs = [i for i in of("log-input") if i[1] == job]
    expect(len(inputs) == logged[0][3], "data that is not all in the log")
    data = sorted((i[3], i[4]) for i in inputs if i[2] == 0)
    expect([place for place, _ in data] == list(range(len(data))), "shards that are not in order")
    data = [hash for _, hash in data]
    rounds, units, refereed, keys, shards = 0, set(), 0, set(), set()
    while parts := [m for m in of("log-merge") if m[1] == job and m[2] == round - 1 and m[5] == state]:
        parts.sort(key=lambda part: part[7])
        inputs = [each for part in parts for each in part[8]]
        expect(len(inputs) == parts[0][6], "a merge that lacks a part")
        expect(len(inputs) == recipe["units_per_round"], "a merge of more or fewer units than the manifest says")
        for at, each in enumerate(inputs):
            units.add(each[0])
            given = False
            for result in (r for r in results if r[2] == each[0]):
                expect(result[5] == ("quorum", "referee")[each[3]], "a unit that is settled by others than its merge says")
                _, key, statement = open_entry(result[3])
                keys.add(key)
                given |= any(output[1] == each[1] for output in statement[5])
                check_work(result[4], recipe, data, parts[0][4][0], round - 1, at)
                shards.add(result[4][1][2])
            expect(given or each[3] == 1, "an update that nobody gave and the coordinator did not compute")
            refereed += not given
        state, round, rounds = parts[0][4], round - 1, rounds + 1
    expect(any(c[1] == job and c[2] == 0 and c[3] == state for c in of("log-checkpoint")), "no way back to round 0")
    say("model", job=job, rounds=rounds, units=len(units), refereed=refereed, keys=len(keys), shards=len(shards))


def check(log, args):
    entries = log.entries()
    expect(len(entries) == log.size, "fewer entries than the checkpoint says")
    statements, points, accepted, successors = [], {}, [], {}
    holder = lambda key: holder(successors[key]) if key in successors else key
    for index, entry in enumerate(entries):
        expect(log.tile(0, index // WIDTH)[index % WIDTH] == leaf_hash(entry), f"entry {index} is not its leaf")
        kind, _, payload = open_entry(entry, log.key)
        statements.append((kind, payload))
        if kind == "log-result":
            key, gained = check_result(payload)
            accepted.append((payload[1], payload[2], hashlib.sha256(payload[3]).digest(), key, gained, payload))
            points[holder(key)] = points.get(holder(key), 0) + gained
        elif kind == "log-retraction":
            found = [each for each in accepted if each[:3] == (payload[1], payload[2], payload[3])]
            expect(found, f"entry {index} takes back a result that is not accepted")
            accepted.remove(found[-1])
            points[holder(found[-1][3])] -= found[-1][4]
        elif kind == "log-key" and payload[2] == 0:
            points[payload[3]] = points.get(payload[3], 0) + points.pop(payload[1], 0)
            successors[payload[1]] = payload[3]
    level, count = 0, log.size
    while count >= WIDTH:
        for number in range(count // WIDTH):
            hashes = log.tile(level, number)
            while len(hashes) > 1:
                hashes = [node_hash(hashes[i], hashes[i + 1]) for i in range(0, len(hashes), 2)]
            expect(log.tile(level + 1, number // WIDTH)[number % WIDTH] == hashes[0], "a tile that is not of those below it")
        level, count = level + 1, count // WIDTH
    expect(log.tree.hash(0, log.size) == log.root, "the root is not that of the tiles")
    kinds = {}
    for kind, _ in statements:
        kinds[kind] = kinds.get(kind, 0) + 1
    say("entries", count=log.size, kinds=kinds)

    for index, entry in enumerate(entries):
        answer = uncbor(log.get(f"/v1/log/receipts/{index}?size={log.size}"))
        expect(answer[0] == index and answer[1] == entry, "the receipt of another entry")
        kind, (size, at, path) = log.receipt(answer[2], log.root)
        expect((kind, size, at) == (-1, log.size, index), "a receipt of another kind")
        expect(path == log.tree.inclusion(index, size), "a path that is not that of the tiles")
        expect(root_by_inclusion(at, size, leaf_hash(entry), path) == log.root, f"entry {index} is not proven")
    for first in range(log.size + 1):
        kind, (start, size, path) = log.receipt(log.get(f"/v1/log/consistency/{first}?size={log.size}"), log.root)
        expect((kind, start, size) == (-2, first, log.size), "a receipt of another kind")
        expect(path == log.tree.consistency(first, size), "a path that is not that of the tiles")
        expect(is_consistent(first, log.tree.hash(0, first), size, log.root, path), f"growth from {first} is not proven")
    say("proofs", inclusion=log.size, consistency=log.size + 1)
    say("credit", points={key.hex(): value for key, value in sorted(points.items())})
    if args.model:
        provenance(statements, [each[5] for each in accepted], pathlib.Path(args.model).read_bytes())
    if args.seen:
        seen = pathlib.Path(args.seen)
        if seen.exists():
            size, root = log.checkpoint(seen.read_text())
            expect(size <= log.size, f"the log was longer: {size} entries, now {log.size}")
            path = log.tree.consistency(size, log.size)
            expect(is_consistent(size, root, log.size, log.root, path), f"the log's first {size} entries are others now")
            say("continues", size=size)
        seen.write_text(log.note)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--model")
    parser.add_argument("--seen")
    parser.add_argument("--witness-key")
    args = parser.parse_args()
    try:
        log = Log(args.url, args.witness_key)
        say("checkpoint", size=log.size, root=log.root.hex())
        check(log, args)
    except Surprise as surprise:
        print(f"Surprise: {surprise}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
