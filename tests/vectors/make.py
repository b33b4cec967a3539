"""Makes the golden vectors: `python tests/vectors/make.py [--check]`, with tests/interop/requirements.txt installed.

It also fills in the copies of the vectors in docs/protocol.md and docs/ledger.md. The bytes come from cbor2 and cryptography, not from the Rust code, so that a vector is a second opinion. Each file is
annotated hexadecimal: what stands after `#` is a comment. Signing keys are Ed25519 seeds of one repeated byte.
It is not part of the build: the files are committed, and protocol/tests/vectors.rs compares the Rust code with them.
"""

import base64
import hashlib
import io
import json
import pathlib
import re
import struct
import sys

import cbor2
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

HERE = pathlib.Path(__file__).parent
WIDTH = 48  # column of the comments


class Key:
    def __init__(self, seed_byte):
        self.private = Ed25519PrivateKey.from_private_bytes(bytes([seed_byte]) * 32)
        self.public = self.private.public_key().public_bytes_raw()


VOLUNTEER, COORDINATOR, SUCCESSOR = Key(0x01), Key(0x02), Key(0x03)


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def blob(text):
    return hashlib.sha256(text.encode()).digest()


def cbor(value):
    return cbor2.dumps(value, canonical=True)


def sign(key, kind, payload):
    """COSE_Sign1 of RFC 9052, tagged."""
    protected = cbor({1: -8, 3: f"application/vnd.manyhands.{kind}+cbor", 4: key.public})
    signature = key.private.sign(cbor(["Signature1", protected, b"", payload]))
    return cbor(cbor2.CBORTag(18, [protected, {}, payload, signature]))


# --- annotation: a walk over the bytes with the names of the fields -------------------------------------------------

DENSE = ["layer", "layer type: dense", "outputs"]
MODEL = {
    0: ("input", {0: ("shape", ["shape", "values"]), 1: "dtype: u8", 2: "scale: 1/255", 3: "offset: 0"}),
    1: ("layers", ["layers", DENSE, ["layer", "layer type: relu"], DENSE]),
    2: "loss: softmax_cross_entropy",
}
TOTALS = {0: "accepted", 1: "rejected", 2: "pending", 3: "credit_flop"}
MATMUL = {0: "a", 1: "b", 2: "m", 3: "k", 4: "n", 5: "dtype: f16"}
TRAIN = {
    0: ("model", MODEL), 1: "checkpoint", 2: "shard", 3: "round", 4: "first_row", 5: "batch", 6: "inner_steps",
    7: ("optimizer", ["optimizer", "type: sgd", "learning_rate: 0.05", "momentum: 0.5", "clip_norm: 0.25"]),
}


def manifest(kind, work):
    return {
        0: "version", 1: "job", 2: "unit", 3: "lease", 4: "key: the volunteer's", 5: "issued_ms", 6: "deadline_ms",
        7: ("work", ["work", f"kind: {kind}", work]), 8: "upload_bytes_max", 9: "states_every",
    }


CONSENT = {
    0: "version", 1: "audience: the coordinator's key", 2: "nonce", 3: "origin", 4: "site",
    6: "duty_percent (no 5, job)", 7: "data_bytes_max", 8: "terms_version", 9: "issued_ms", 10: "expires_ms",
    11: "category: public_good",
}
ROTATION = {0: "version", 1: "audience: the coordinator's key", 2: "nonce", 3: "old", 4: "new"}
RESULT = {
    0: "version", 1: "job", 2: "unit", 3: "lease", 4: "manifest: SHA-256 of the signed unit manifest",
    5: ("outputs", ["outputs", {0: "name", 1: "hash", 2: "bytes"}]),
    6: "backend", 7: "details: SHA-256 of the details",
    8: ("losses_micro", ["losses_micro", "loss before a step"]),
    9: ("states", {0: "every", 1: "root"}),
}
DETAILS = {
    0: "salt", 1: "adapter", 2: ("timings", {0: "fetch_ms", 1: "compute_ms"}),
    3: ("kernels", {
        0: "version",
        1: ("products", ["products", {0: "m", 1: "k", 2: "n", 3: "transposed_a", 4: "transposed_b", 5: "kernel"}]),
    }),
}
SEGMENT = {
    0: "root", 1: "first", 2: "last", 3: ("first_committed", ["path", "node"]), 4: ("last_committed", ["path", "node"]),
    5: ("first_path", ["path", "node"]), 6: ("last_path", ["path", "node"]), 7: ("initial_path", ["path", "node"]),
    8: ("end_leaves", ["leaves", "leaf"]), 9: ("end_path", ["path", "node"]),
}
REVEAL = {0: "hash", 1: "bytes", 2: ("before_path", ["path", "node"]), 3: ("after_path", ["path", "node"])}
ENDS = {0: "hash", 1: "bytes", 2: ("first_path", ["path", "node"]), 3: ("last_path", ["path", "node"])}
STATE = {0: "checkpoint", 1: "velocity"}
LOGGED = {
    "log-result": {
        0: "version", 1: "job", 2: "unit", 3: "result: as in result-matmul.hex", 4: ("work", ["work", "kind: matmul", MATMUL]),
        5: "settled_by", 6: ("credit", {0: "flop", 1: "bytes"}),
    },
    "log-job": {0: "version", 1: "job", 2: "manifest: JSON", 3: "inputs_count"},
    "log-input": {0: "version", 1: "job", 2: "role: shard", 3: "place", 4: "hash"},
    "log-checkpoint": {0: "version", 1: "job", 2: "round", 3: ("state", STATE), 4: "loss_micro", 5: "accuracy_micro"},
    "log-merge": {
        0: "version", 1: "job", 2: "round", 3: "rule", 4: ("before", STATE), 5: ("after", STATE), 6: "inputs_count", 7: "first",
        8: ("inputs", ["inputs", {0: "unit", 1: "output", 2: "weight_micro", 3: "settled_by"}]),
    },
    "log-roll-back": {0: "version", 1: "job", 2: "round", 3: ("from", STATE), 4: ("to", STATE), 5: "reason"},
    "log-key": {0: "version", 1: "key", 2: "event: rotated", 3: "successor"},
    "log-consent": {0: "version", 1: "commitment"},
    "log-retraction": {0: "version", 1: "job", 2: "unit", 3: "result"},
}


class Walk:
    """Splits deterministic CBOR into annotated lines."""

    def __init__(self, data):
        self.data, self.at, self.lines = data, 0, []

    def put(self, count, depth, note):
        piece, self.at = self.data[self.at : self.at + count], self.at + count
        hexes = [piece[i : i + 16].hex() for i in range(0, len(piece), 16)] or [""]
        for i, text in enumerate(hexes):
            left = "  " * depth + text
            self.lines.append(f"{left:<{WIDTH}}# {note}" if i == 0 and note else left)

    def head(self):
        first = self.data[self.at]
        major, info = first >> 5, first & 31
        size = 1 + {24: 1, 25: 2, 26: 4, 27: 8}.get(info, 0)
        value = info if info < 24 else int.from_bytes(self.data[self.at + 1 : self.at + size], "big")
        return major, size, value

    def walk(self, schema, depth=0, label=""):
        major, size, value = self.head()
        if isinstance(schema, str):
            label, schema = schema, None
        elif isinstance(schema, tuple):
            label, schema = schema
        if major == 6:
            self.put(size, depth, f"tag {value}: COSE_Sign1")
            self.walk(schema, depth, label)
        elif major == 5:
            self.put(size, depth, f"{label + ': ' if label else ''}map of {value}")
            for _ in range(value):
                key_major, key_size, key = self.head()
                key = -1 - key if key_major == 1 else key
                self.put(key_size, depth + 1, f"{key}:")
                self.walk(schema[key], depth + 2)
        elif major == 4:
            schema = schema or ["array"]
            self.put(size, depth, f"{label or schema[0]}: array of {value}")
            for i in range(value):
                self.walk(schema[1:][min(i, len(schema) - 2)] if len(schema) > 1 else "", depth + 1)
        elif major in (2, 3):
            kind = "bytes" if major == 2 else "text"
            self.put(size, depth, f"{label or 'wrapped CBOR'}: {kind} of {value}")
            if schema is not None:
                self.walk(schema, depth + 1)
            elif value:
                text = self.data[self.at : self.at + value].decode() if major == 3 else ""
                self.put(value, depth + 1, f'"{text}"' if text else "")
        else:
            shown = f" = {value}" if major == 0 and not label.startswith(("kind", "dtype", "layer type", "type", "loss: ")) else ""
            self.put(size, depth, f"{label}{shown}")


def envelope(schema):
    protected = {1: "alg: EdDSA (-8)", 3: "content type", 4: "key id: the signer's public key"}
    return ["COSE_Sign1", ("protected header", protected), ("unprotected header", {}), ("payload", schema), "signature"]


def write(name, about, data, schema, check):
    walk = Walk(data)
    walk.walk(schema)
    assert walk.at == len(data), name
    lines = "".join(f"# {line}\n" for line in about.splitlines()) + "\n".join(walk.lines) + "\n"
    stripped = "".join(line.split("#")[0].strip() for line in lines.splitlines())
    assert bytes.fromhex("".join(stripped.split())) == data, name
    assert cbor(cbor2.load(io.BytesIO(data))) == data, f"{name}: not deterministic"
    put(HERE / f"{name}.hex", lines, check)


def put(path, text, check):
    if check:
        assert path.read_text() == text, f"{path} is not what this script makes"
    else:
        path.write_text(text)


# --- the log: RFC 9162 section 2.1, word for word -------------------------------------------------------------------


def leaf_hash(entry):
    return hashlib.sha256(b"\0" + entry).digest()


def split(count):
    return 1 << (count - 1).bit_length() - 1


def mth(leaves):
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256().digest()
    k = split(len(leaves))
    return hashlib.sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m, leaves):
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    return path(m, leaves[:k]) + [mth(leaves[k:])] if m < k else path(m - k, leaves[k:]) + [mth(leaves[:k])]


def subproof(m, leaves, whole=True):
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return subproof(m, leaves[:k], whole) + [mth(leaves[k:])]
    return subproof(m - k, leaves[k:], False) + [mth(leaves[:k])]


def receipt(kind, numbers, hashes, root):
    """COSE receipt of RFC 9942."""
    protected = cbor({1: -8, 4: COORDINATOR.public, 395: 1})
    signature = COORDINATOR.private.sign(cbor(["Signature1", protected, b"", root]))
    return cbor(cbor2.CBORTag(18, [protected, {396: {kind: [cbor([*numbers, hashes])]}}, None, signature]))


def write_pieces(name, about, pieces, check):
    lines = [f"# {about}"]
    for data, note in pieces:
        rows = [data[i : i + 16].hex() for i in range(0, len(data), 16)]
        lines += [f"{row:<{WIDTH}}# {note}" if i == 0 else row for i, row in enumerate(rows)]
    put(HERE / f"{name}.hex", "\n".join(lines) + "\n", check)


def write_log(result, check):
    """One statement of each kind, and the log of the first seven."""
    state = lambda name: {0: blob(f"checkpoint {name}"), 1: blob(f"velocity {name}")}
    credit = {0: 2 * 256 * 1000 * 17, 1: 17_472}
    salt = bytes(range(32))
    payloads = {
        "log-result": {
            0: 1, 1: 7, 2: 41, 3: result, 4: [0, {0: blob("a"), 1: blob("b"), 2: 256, 3: 1000, 4: 17}], 5: "algebra", 6: credit,
        },
        "log-job": {0: 1, 1: 7, 2: b'{"version":1}', 3: 3},
        "log-input": {0: 1, 1: 7, 2: 0, 3: 1, 4: blob("shard")},
        "log-checkpoint": {0: 1, 1: 7, 2: 12, 3: state("12"), 4: 1_098_612, 5: 812_500},
        "log-merge": {
            0: 1, 1: 7, 2: 11, 3: "mean-nesterov", 4: state("11"), 5: state("12"), 6: 2, 7: 0,
            8: [
                {0: 42, 1: blob("delta 42"), 2: 1_000_000, 3: 0}, {0: 43, 1: blob("delta 43"), 2: 1_000_000, 3: 1},
            ],
        },
        "log-roll-back": {0: 1, 1: 7, 2: 11, 3: state("12"), 4: state("11"), 5: "held-out loss"},
        "log-key": {0: 1, 1: VOLUNTEER.public, 2: 0, 3: SUCCESSOR.public},
        "log-consent": {0: 1, 1: hashlib.sha256(salt + b"a signed consent").digest()},
        "log-retraction": {0: 1, 1: 7, 2: 41, 3: hashlib.sha256(result).digest()},
    }
    entries = []
    for kind, payload in payloads.items():
        entries.append(sign(COORDINATOR, kind, cbor(payload)))
        write(kind, f"Statement {kind} in the log,\nsigned by the coordinator's test key (seed 02 x 32).", entries[-1],
              envelope(LOGGED[kind]), check)
    entries = entries[:7]
    leaves = [leaf_hash(entry) for entry in entries]
    root = mth(leaves)
    pieces = []
    for i, entry in enumerate(entries):
        pieces += [(struct.pack(">H", len(entry)), f"length of entry {i}"), (entry, f"entry {i}")]
    write_pieces("log-entries", "tile/entries/000.p/7: the first seven statements above.", pieces, check)
    pieces = [(leaf, f"leaf {i}") for i, leaf in enumerate(leaves)]
    write_pieces("log-tile", "tile/0/000.p/7: their leaf hashes.", pieces, check)
    origin = f"manyhands/{COORDINATOR.public.hex()}"
    text = f"{origin}\n7\n{base64.b64encode(root).decode()}\n"
    key_hash = hashlib.sha256(origin.encode() + b"\n\1" + COORDINATOR.public).digest()[:4]
    signature = base64.b64encode(key_hash + COORDINATOR.private.sign(text.encode())).decode()
    put(HERE / "log-note.txt", f"{text}\n\u2014 {origin} {signature}\n", check)
    protected = {1: "alg: EdDSA (-8)", 4: "key id: the log's key", 395: "vds: RFC9162_SHA256 (1)"}
    schema = lambda kind, label, fields: [
        "COSE_Sign1", ("protected header", protected),
        ("unprotected header", {396: ("vdp", {kind: (label, [label, [label[:-1], *fields, ["path", "hash"]]])})}),
        "payload: detached, the root", "signature",
    ]
    write("log-receipt", "Receipt that entry 2 is in the tree of 7.", receipt(-1, [7, 2], path(2, leaves), root),
          schema(-1, "inclusion proofs", ["tree size", "leaf index"]), check)
    write("log-consistency", "Receipt that the tree of 7 begins with that of 3.", receipt(-2, [3, 7], subproof(3, leaves), root),
          schema(-2, "consistency proofs", ["first size", "second size"]), check)


def write_safetensors(check):
    """The smallest tensor file, laid out by hand."""
    header = b'{"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
    assert len(header) % 8 == 0
    pieces = [(struct.pack("<Q", len(header)), f"header: {len(header)} bytes")]
    pieces += [(header[i : i + 16], f'"{header[i:i + 16].decode()}"') for i in range(0, len(header), 16)]
    pieces += [(struct.pack("<f", 1.0), "a[0][0] = 1"), (struct.pack("<f", -2.0), "a[0][1] = -2")]
    lines = ["# Input `a` of a product with m = 1, k = 2."]
    lines += [f"{piece.hex():<{WIDTH}}# {note}" for piece, note in pieces]
    put(HERE / "safetensors-a.hex", "\n".join(lines) + "\n", check)


def write_state_trees(check):
    """The root over a state, a leaf of a trace and the root over three states, by hashlib alone."""
    sha256 = lambda *parts: hashlib.sha256(b"".join(parts)).digest()
    leaf = lambda domain, name, data: sha256(b"\0", domain, b"\0", name, b"\0", data)
    node = lambda left, right: sha256(b"\1", left, right)
    pair = lambda *values: struct.pack("<2f", *values)

    def state(n):
        tensors = [(b"layers.0.weight", pair(n, 1)), (b"layers.0.weight.velocity", pair(0, n))]
        return node(*(leaf(b"manyhands state", *tensor) for tensor in tensors))

    a, b, c = (leaf(b"manyhands states", b"", state(n)) for n in range(3))
    parts = [
        (state(0), "root over layers.0.weight = [0, 1], layers.0.weight.velocity = [0, 0]"),
        (leaf(b"manyhands trace", b"layers.0.0.output", struct.pack("<f", 1)), "leaf of layers.0.0.output = [1] in a trace"),
        (node(node(a, b), c), "root over the first and two more states: weights [n, 1], velocities [0, n]"),
    ]
    lines = ["# Trees over training states."]
    for data, note in parts:
        lines += [f"{data[:16].hex():<{WIDTH}}# {note}", data[16:].hex()]
    put(HERE / "state-trees.hex", "\n".join(lines) + "\n", check)


def write_key_file(name, key, check):
    """The volunteer's test key, locked with a passphrase, under the name of a public key."""
    salt, iv, iterations = bytes(range(16)), bytes(range(12)), 600_000
    plain = VOLUNTEER.private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    derived = PBKDF2HMAC(hashes.SHA256(), 32, salt, iterations).derive("correct horse battery staple".encode())
    sealed = AESGCM(derived).encrypt(iv, plain, key)
    parts = ["manyhands-key", "1", key.hex(), str(iterations), salt.hex(), iv.hex(), sealed.hex()]
    file = {
        "format": "manyhands-key",
        "version": 1,
        "key": key.hex(),
        "kdf": {"name": "PBKDF2-HMAC-SHA-256", "iterations": iterations, "salt": salt.hex()},
        "cipher": {"name": "AES-256-GCM", "iv": iv.hex()},
        "sealed": sealed.hex(),
        "checksum": hashlib.sha256(" ".join(parts).encode()).hexdigest(),
    }
    put(HERE / f"{name}.json", json.dumps(file, indent=2) + "\n", check)


def fill_document(check):
    """Puts each vector that the documents name after its marker."""
    fill_ledger(check)
    path = HERE.parent.parent / "docs" / "protocol.md"
    marker = re.compile(r"<!-- vector: ([a-z0-9-]+) -->\n(```hex\n.*?```\n)?", re.DOTALL)

    def block(match):
        return f"<!-- vector: {match[1]} -->\n```hex\n{(HERE / f'{match[1]}.hex').read_text()}```\n"

    text = marker.sub(block, path.read_text())
    file = (HERE / "key-file.json").read_text()
    text = re.sub(r"```json KeyFile\n.*?```\n", lambda _: f"```json KeyFile\n{file}```\n", text, flags=re.DOTALL)
    put(path, text, check)


def fill_ledger(check):
    path = HERE.parent.parent / "docs" / "ledger.md"
    marker = re.compile(r"<!-- vector: ([a-z0-9.-]+) -->\n(```[a-z]+\n.*?```\n)?", re.DOTALL)

    def block(match):
        name = match[1] if "." in match[1] else f"{match[1]}.hex"
        return f"<!-- vector: {match[1]} -->\n```{name.rsplit('.')[1]}\n{(HERE / name).read_text()}```\n"

    put(path, marker.sub(block, path.read_text()), check)


NOW = 1_750_000_000_000


def main(check):
    consent = cbor({
        0: 1, 1: COORDINATOR.public, 2: bytes(range(32)), 3: "http://127.0.0.1:8787", 4: "",
        6: 50, 7: 0, 8: 1, 9: NOW, 10: NOW + 3_600_000,
    })
    signed = f"signed by the volunteer's test key (seed 01 x 32, public {VOLUNTEER.public.hex()})."
    write("consent", f"Consent statement,\n{signed}", sign(VOLUNTEER, "consent", consent), envelope(CONSENT), check)
    consent = cbor({
        0: 1, 1: COORDINATOR.public, 2: bytes(range(32)), 3: "http://127.0.0.1:8787", 4: "shop",
        6: 50, 7: 0, 8: 1, 9: NOW, 10: NOW + 3_600_000, 11: 2,
    })
    write("consent-category", f"Consent statement to a kind of jobs,\n{signed}", sign(VOLUNTEER, "consent", consent), envelope(CONSENT), check)

    rotation = cbor({0: 1, 1: COORDINATOR.public, 2: bytes(range(32)), 3: VOLUNTEER.public, 4: SUCCESSOR.public})
    by_old, by_new = (sign(key, "rotation", rotation) for key in (VOLUNTEER, SUCCESSOR))
    write("rotation", f"Rotation statement,\n{signed}", by_old, envelope(ROTATION), check)
    write("rotation-request", "POST /v1/rotations: the statement of rotation.hex, signed by the old key and by the new one "
          f"(seed 03 x 32,\npublic {SUCCESSOR.public.hex()}).", cbor({0: by_old, 1: by_new}), {0: "by_old", 1: "by_new"}, check)

    model = {
        0: {0: [4], 1: 0, 2: f32(1 / 255), 3: 0.0},
        1: [[0, 3], [1], [0, 2]],
        2: 0,
    }
    def train(optimizer):
        return [1, {0: model, 1: blob("checkpoint"), 2: blob("shard"), 3: 12, 4: 64, 5: 32, 6: 30, 7: optimizer}]

    works = {
        "matmul": (41, 900, [0, {0: blob("a"), 1: blob("b"), 2: 256, 3: 1000, 4: 17}], MATMUL, 262_144),
        "matmul-f16": (43, 902, [0, {0: blob("a"), 1: blob("b"), 2: 256, 3: 1000, 4: 17, 5: 1}], MATMUL, 262_144),
        "train": (42, 901, train([0, f32(0.05), 0.5]), TRAIN, 4_096),
        "train-clipped": (44, 903, train([0, f32(0.05), 0.5, 0.25]), TRAIN, 4_096),
    }
    more = {"matmul-f16": " of operands in f16", "train-clipped": " with clipping"}
    manifests = {}
    signed = f"signed by the coordinator's test key (seed 02 x 32, public {COORDINATOR.public.hex()})."
    for kind, (unit, lease, work, schema, upload) in works.items():
        payload = cbor({
            0: 1, 1: 7, 2: unit, 3: lease, 4: VOLUNTEER.public, 5: NOW, 6: NOW + 60_000, 7: work, 8: upload,
        })
        manifests[kind] = sign(COORDINATOR, "unit-manifest", payload)
        name = kind.partition("-")[0]
        about = f"Unit manifest of a {name} unit{more.get(kind, '')},\n{signed}"
        write(f"unit-manifest-{kind}", about, manifests[kind], envelope(manifest(name, schema)), check)
    unit, lease, work, schema, upload = works["train"]
    committing = sign(COORDINATOR, "unit-manifest", cbor({
        0: 1, 1: 7, 2: unit, 3: lease, 4: VOLUNTEER.public, 5: NOW, 6: NOW + 60_000, 7: work, 8: upload, 9: 4,
    }))
    write("unit-manifest-train-states", f"The same train unit, with a commitment to every fourth state,\n{signed}", committing,
          envelope(manifest("train", schema)), check)

    signed = f"signed by the volunteer's test key (seed 01 x 32, public {VOLUNTEER.public.hex()})."
    results = {
        "matmul": ("c", 17_472, 4, "", []),
        "train": ("delta", 368, 0, "swiftshader", [1_098_612, 1_000_000, 0]),
    }
    statements, details_of = {}, {}
    for kind, (name, size, backend, adapter, losses) in results.items():
        unit, lease = works[kind][:2]
        product = {0: 32, 1: 4, 2: 3, 3: False, 4: True, 5: "matmul_quad"}
        kernels = {3: {0: "0123456789abcdef", 1: [product]}} if kind == "train" else {}
        details = details_of[kind] = cbor({0: bytes(range(32)), 1: adapter, 2: {0: 12, 1: 345}, **kernels})
        payload = cbor({
            0: 1, 1: 7, 2: unit, 3: lease, 4: hashlib.sha256(manifests[kind]).digest(),
            5: [{0: name, 1: blob(name), 2: size}], 6: backend, 7: hashlib.sha256(details).digest(), 8: losses,
        })
        statements[kind] = sign(VOLUNTEER, "result", payload)
        write(f"result-{kind}", f"Result of the {kind} unit in unit-manifest-{kind}.hex,\n{signed}",
              statements[kind], envelope(RESULT), check)
        write(f"result-details-{kind}", f"How the result in result-{kind}.hex was computed.", details, DETAILS, check)
    write("result-request", "POST /v1/results: the statement of result-matmul.hex and the details of result-details-matmul.hex.",
          cbor({0: statements["matmul"], 1: details_of["matmul"]}),
          {0: "statement", 1: "details"}, check)
    write_log(statements["matmul"], check)

    unit, lease = works["train"][:2]
    payload = cbor({
        0: 1, 1: 7, 2: unit, 3: lease, 4: hashlib.sha256(committing).digest(), 5: [{0: "delta", 1: blob("delta"), 2: 368}],
        6: results["train"][2], 7: hashlib.sha256(details_of["train"]).digest(), 8: results["train"][4], 9: {0: 4, 1: blob("states")},
    })
    write("result-train-states", f"Result of the train unit in unit-manifest-train-states.hex,\n{signed}",
          sign(VOLUNTEER, "result", payload), envelope(RESULT), check)

    ask = {0: "lease", 1: ("ask", ["ask", "kind"]), 2: "deadline_ms"}
    asks = {
        "segment": ([0, 8, 4], "the states from step 8 to step 12", ["ask", "kind: segment", "first_step", "steps"]),
        "trace": ([1, 10], "the step from state 10 to the next", ["ask", "kind: trace", "step"]),
        "reveal": ([2, 10, []], "that step, all layers", ["ask", "kind: reveal", "step", ("layers", ["layers", "layer"])]),
        "nothing": ([3], "nothing any more", ["ask", "kind: nothing"]),
        "ends": ([4, 8, 4], "the states after 8 and after 12 steps", ["ask", "kind: ends", "first_step", "steps"]),
    }
    for kind, (what, about, schema) in asks.items():
        until = 0 if kind == "nothing" else NOW + 30_000
        write(f"challenge-{kind}", f"Answer to GET /v1/challenges/901: {about}.", cbor({0: 901, 1: what, 2: until}),
              {**ask, 1: ("ask", schema)}, check)
    segment = {
        0: blob("segment"), 1: blob("state 8"), 2: blob("state 12"), 3: [blob("a"), blob("b")], 4: [blob("c"), blob("b")],
        5: [blob("d")], 6: [blob("e")], 7: [blob("f"), blob("g")], 8: [blob("h"), blob("i"), blob("j")], 9: [],
    }
    reveal = {0: blob("reveal"), 1: 1_048_576, 2: [blob("k"), blob("l")], 3: [blob("m"), blob("l")]}
    ends = {0: blob("ends"), 1: 524_288, 2: [blob("a"), blob("b")], 3: [blob("c"), blob("b")]}
    answers = {
        "segment": ([0, segment], ["answer", "kind: segment", SEGMENT]),
        "trace": ([1, blob("trace")], ["answer", "kind: trace", "root"]),
        "reveal": ([2, reveal], ["answer", "kind: reveal", REVEAL]),
        "unable": ([3], ["answer", "kind: unable"]),
        "ends": ([4, ends], ["answer", "kind: ends", ENDS]),
    }
    for kind, (what, schema) in answers.items():
        write(f"challenge-answer-{kind}", f"POST /v1/challenges/901: {kind},\n{signed}",
              sign(VOLUNTEER, "challenge-answer", cbor({0: 1, 1: 901, 2: what})),
              envelope({0: "version", 1: "lease", 2: ("answer", schema)}), check)

    write("session-opened", "Answer to POST /v1/sessions.", cbor({0: "0f1e2d3c", 1: NOW + 3_600_000}),
          {0: "token", 1: "expires_ms"}, check)
    request = {0: "units_max", 1: "backend", 2: "job", 3: "blob_bytes_max"}
    write("lease-request", "POST /v1/leases: two units of job 7 for an independent client (backend 4).",
          cbor({0: 2, 1: 4, 2: 7, 3: 67_108_864}), request, check)
    write("lease-request-any", "POST /v1/leases: a unit of any job the consent covers (key 2, job, is absent), on WebGPU.",
          cbor({0: 1, 1: 0, 3: 67_108_864}), request, check)
    response = {0: ("manifests", ["manifests", "signed unit manifest"]), 1: "retry_after_ms", 2: ("totals", TOTALS)}
    write("lease-response", "Answer to POST /v1/leases: one lease, holding unit-manifest-matmul.hex.",
          cbor({0: [manifests["matmul"]], 1: 0, 2: {0: 3, 1: 1, 2: 2, 3: 1_000_000_000}}), response, check)
    write("lease-response-none", "Answer to POST /v1/leases: nothing to do, ask again in two seconds.",
          cbor({0: [], 1: 2_000, 2: {0: 0, 1: 0, 2: 0, 3: 0}}), response, check)
    write("heartbeat-response", "Answer to POST /v1/leases/900/heartbeat.", cbor({0: True, 1: NOW + 65_000}),
          {0: "keep: true", 1: "deadline_ms"}, check)
    answer = {0: "unit", 1: "lease", 2: "verdict", 3: "reason", 4: "credit_flop"}
    write("result-response", "Answer to POST /v1/results: accepted (1), 2*m*k*n = 8704000 credited.",
          cbor({0: 41, 1: 900, 2: 1, 3: "", 4: 8_704_000}), answer, check)
    write("result-response-rejected", "Answer to POST /v1/results: rejected (2), with the reason.",
          cbor({0: 41, 1: 900, 2: 2, 3: "wrong_tensor: row 3 is not the product", 4: 0}), answer, check)
    write("result-response-challenged", "Answer to POST /v1/results: challenged (3).",
          cbor({0: 42, 1: 901, 2: 3, 3: "", 4: 0}), answer, check)
    write_safetensors(check)
    write_state_trees(check)
    write_key_file("key-file", VOLUNTEER.public, check)
    write_key_file("key-file-wrong-key", SUCCESSOR.public, check)
    fill_document(check)


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
