#!/usr/bin/env python3
"""An independent volunteer, written from docs/protocol.md alone: no code of Many Hands is used or read.

    client.py URL --job ID [--lies]

Opens a session, leases matmul units of the job, computes them with numpy, signs, submits and checks that they were
credited. With `--lies` it also breaks the rules, one at a time, and checks that each lie is refused with its code; the
job must have at least 12 units. Prints one JSON line per step and exits with 1 at the first surprise. It knows no
training units; cheater.py, which builds on it, does, and challenged.py commits to their states.
"""

import argparse
import hashlib
import http.client
import json
import os
import struct
import sys
import time
import urllib.parse

import cbor2
import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

CBOR, COSE, OCTETS, JSON = "application/cbor", "application/cose", "application/octet-stream", "application/json"
OTHER = 4  # backend: an independent client
PENDING, ACCEPTED, REJECTED = 0, 1, 2
TIMEOUT_S = 60


class Surprise(Exception):
    """The coordinator did something that the document does not say."""


def expect(ok, what):
    if not ok:
        raise Surprise(what)


def say(step, **facts):
    print(json.dumps({"step": step, **facts}), flush=True)


# --- section 1: deterministic CBOR --------------------------------------------------------------------------------


def cbor(value):
    return cbor2.dumps(value, canonical=True)


def uncbor(data):
    value = cbor2.loads(data)
    expect(cbor(value) == data, "an answer is not in deterministic encoding")
    return value


# How every result here was computed: no two clients share the salt.
DETAILS = cbor({0: os.urandom(32), 1: "numpy", 2: {0: 1, 1: 2}})


# --- section 2: signed statements ---------------------------------------------------------------------------------


class Key:
    def __init__(self):
        self.private = Ed25519PrivateKey.generate()
        self.public = self.private.public_key().public_bytes_raw()


def content_type(kind):
    return f"application/vnd.manyhands.{kind}+cbor"


def sign(key, kind, statement, algorithm=-8, signer=None, unprotected=None):
    """The statement in a signed envelope; the last three arguments are for lies."""
    protected = cbor({1: algorithm, 3: content_type(kind), 4: key.public})
    payload = statement if isinstance(statement, bytes) else cbor(statement)
    to_be_signed = cbor(["Signature1", protected, b"", payload])
    signature = (signer or key).private.sign(to_be_signed)
    return cbor(cbor2.CBORTag(18, [protected, unprotected or {}, payload, signature]))


def verify(data, kind, public):
    """The payload of an envelope that `public` signed."""
    envelope = uncbor(data)
    expect(isinstance(envelope, cbor2.CBORTag) and envelope.tag == 18 and len(envelope.value) == 4, "no COSE_Sign1")
    protected, unprotected, payload, signature = envelope.value
    expect(uncbor(protected) == {1: -8, 3: content_type(kind), 4: public}, "another protected header")
    expect(dict(unprotected) == {}, "an unprotected header")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, cbor(["Signature1", protected, b"", payload]))
    except InvalidSignature:
        raise Surprise("a manifest that the coordinator did not sign") from None
    return uncbor(payload)


# --- section 6: tensors -------------------------------------------------------------------------------------------


def read_tensor(data, name, shape, dtype=0):
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    expect(list(header) == [name], f"tensors {list(header)} instead of {name}")
    entry = header[name]
    expect(entry["dtype"] == ("F32", "F16")[dtype] and entry["shape"] == list(shape), f"{name} is {entry}")
    start, stop = entry["data_offsets"]
    expect(start == 0 and 8 + length + stop == len(data), f"{name} does not fill its file")
    return np.frombuffer(data, ("<f4", "<f2")[dtype], offset=8 + length).reshape(shape)


def write_tensor(name, values, dtype="F32", shape=None, stop=None):
    raw = np.ascontiguousarray(values).tobytes()
    entry = {"dtype": dtype, "shape": list(shape or values.shape), "data_offsets": [0, len(raw) if stop is None else stop]}
    header = json.dumps({name: entry}).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + raw


# --- sections 3 to 5 and 8: calls ---------------------------------------------------------------------------------


class Refused(Exception):
    def __init__(self, status, problem):
        super().__init__(f"{status} {problem}")
        self.status, self.code, self.retryable = status, problem["code"], problem["retryable"]


class Coordinator:
    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        expect(parts.scheme == "http", "this client speaks plain HTTP, to loopback")
        self.host = parts.netloc
        self.info = self.json("GET", "/v1/info")
        expect(self.info["protocol_version"] == 1, "another protocol version")
        self.key = bytes.fromhex(self.info["key"])

    def call(self, method, path, body=None, kind=None, token=None, headers=()):
        """Body of a good answer; a problem document is raised as Refused."""
        sent = dict(headers)
        if kind:
            sent["Content-Type"] = kind
        if token:
            sent["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection(self.host, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        if 200 <= response.status < 300:
            return response, data
        got = response.headers.get_content_type()
        expect(got == "application/problem+json", f"{method} {path}: {response.status} with {got}: {data[:200]}")
        problem = json.loads(data)
        expect(problem["status"] == response.status, f"status {response.status} with {problem}")
        expect(problem["type"] == f"urn:manyhands:problem:{problem['code']}", f"type and code differ: {problem}")
        raise Refused(response.status, problem)

    def json(self, method, path, **rest):
        return json.loads(self.call(method, path, **rest)[1])

    def blob(self, hash_):
        response, data = self.call("GET", f"/v1/blobs/{hash_.hex()}")
        expect(hashlib.sha256(data).digest() == hash_, "a blob does not hash to its name")
        expect(response.headers.get_content_type() == OCTETS, "a blob is not an octet-stream")
        expect(response.headers["X-Content-Type-Options"] == "nosniff", "a blob without nosniff")
        return data


class Volunteer:
    """A key with a session."""

    def __init__(self, coordinator, job, change=None):
        self.coordinator, self.job, self.key = coordinator, job, Key()
        answer = uncbor(self.open_session(self.consent(change or {})))
        self.token, self.expires_ms = answer[0], answer[1]

    def consent(self, change):
        info = self.coordinator.json("GET", "/v1/info")
        statement = {
            0: 1, 1: self.coordinator.key, 2: bytes.fromhex(info["nonce"]), 3: "native", 4: "", 5: self.job, 6: 100, 7: 0,
            8: info["terms_version"], 9: info["now_ms"], 10: info["now_ms"] + 600_000,
        }
        return {k: v for k, v in {**statement, **change}.items() if v is not None}

    def open_session(self, consent, **lie):
        response, data = self.coordinator.call("POST", "/v1/sessions", sign(self.key, "consent", consent, **lie), COSE)
        expect(response.status == 201, f"a session with {response.status}")
        return data

    def call(self, method, path, body=None, kind=None, **rest):
        return self.coordinator.call(method, path, body, kind, token=self.token, **rest)

    def lease(self, units=1, job=None):
        request = {0: units, 1: OTHER, 2: job or self.job, 3: 64 * 1024 * 1024}
        answer = uncbor(self.call("POST", "/v1/leases", cbor(request), CBOR)[1])
        manifests, self.totals = answer[0], answer[2]
        return [Unit(self, data) for data in manifests]

    def one_unit(self):
        units = self.lease()
        expect(len(units) == 1, "no unit left to lease")
        return units[0]

    def submit(self, statement, details=None):
        body = cbor({0: statement, 1: DETAILS if details is None else details})
        return uncbor(self.call("POST", "/v1/results", body, CBOR)[1])

    def view(self):
        return self.coordinator.json("GET", f"/v1/keys/{self.key.public.hex()}")


class Unit:
    """A leased product."""

    def __init__(self, volunteer, data):
        self.volunteer, self.data = volunteer, data
        manifest = verify(data, "unit-manifest", volunteer.coordinator.key)
        expect(manifest[0] == 1 and manifest[4] == volunteer.key.public, "a manifest for another key or version")
        expect(manifest[1] == volunteer.job, "a job that was not consented to")
        self.unit, self.lease, self.upload_max = manifest[2], manifest[3], manifest[8]
        kind, work = manifest[7]
        expect(kind == 0, "not a product")
        self.a, self.b, self.m, self.k, self.n = (work[i] for i in range(5))
        self.dtype = work.get(5, 0)

    def compute(self):
        a = read_tensor(self.volunteer.coordinator.blob(self.a), "a", (self.m, self.k), self.dtype)
        b = read_tensor(self.volunteer.coordinator.blob(self.b), "b", (self.k, self.n), self.dtype)
        return (a.astype(np.float64) @ b.astype(np.float64)).astype("<f4")

    def upload(self, data, volunteer=None, name=None):
        hash_ = name or hashlib.sha256(data).digest()
        (volunteer or self.volunteer).call("PUT", f"/v1/blobs/{hash_.hex()}?lease={self.lease}", data, OCTETS)
        return hash_

    def result(self, hash_, size, change=None):
        statement = {
            0: 1, 1: self.volunteer.job, 2: self.unit, 3: self.lease, 4: hashlib.sha256(self.data).digest(),
            5: [{0: "c", 1: hash_, 2: size}], 6: OTHER, 7: hashlib.sha256(DETAILS).digest(), 8: [],
        }
        return {**statement, **(change or {})}

    def finish(self, data, change=None, **lie):
        """Uploads and submits `data`; gives the statement's bytes and the answer."""
        body = sign(self.volunteer.key, "result", self.result(self.upload(data), len(data), change), **lie)
        return body, self.volunteer.submit(body)

    def flop(self):
        return 2 * self.m * self.k * self.n


def honest(volunteer):
    """One unit from lease to credit; gives the statement."""
    unit = volunteer.one_unit()
    keep, deadline_ms = (uncbor(volunteer.call("POST", f"/v1/leases/{unit.lease}/heartbeat")[1])[i] for i in (0, 1))
    expect(keep is True and deadline_ms > 0, "a fresh lease is not kept")
    before = volunteer.view()["totals"]
    body, answer = unit.finish(write_tensor("c", unit.compute()))
    answer = settled(volunteer, body, answer)
    expect(answer[:3] == [unit.unit, unit.lease, ACCEPTED], f"an honest product got {answer}")
    expect(answer[3] == "" and answer[4] == unit.flop(), f"credited {answer}")
    after = volunteer.view()["totals"]
    expect(after["accepted"] == before["accepted"] + 1, f"accepted went from {before} to {after}")
    expect(after["credit_flop"] == before["credit_flop"] + unit.flop(), f"credit went from {before} to {after}")
    again = settled(volunteer, body, volunteer.submit(body))
    expect(again == answer and volunteer.view()["totals"] == after, "the same bytes again were not the same verdict")
    say("honest", unit=unit.unit, shape=[unit.m, unit.k, unit.n], credit_flop=answer[4])
    return unit, body


def settled(volunteer, body, answer):
    """The answer as a list, asked for again while it is pending."""
    deadline = time.monotonic() + TIMEOUT_S
    while answer[2] == PENDING:
        expect(time.monotonic() < deadline, "a product stays pending")
        answer = volunteer.submit(body)
    return [answer[i] for i in range(5)]


# --- lies ---------------------------------------------------------------------------------------------------------


def refused(name, code, lie):
    """Runs a lie that must be refused with exactly this code."""
    try:
        lie()
    except Refused as refusal:
        expect(refusal.code == code, f"{name}: refused with {refusal}, not {code}")
        say("refused", lie=name, code=code)
    else:
        raise Surprise(f"{name} was not refused")


def rejected(name, word, volunteer, data_of):
    """Submits what `data_of` makes of the right product: a verdict `rejected` whose reason begins with `word`."""
    unit = volunteer.one_unit()
    body, answer = unit.finish(data_of(unit.compute()))
    answer = settled(volunteer, body, answer)
    expect(answer[2] == REJECTED and answer[4] == 0, f"{name}: got {answer}")
    expect(answer[3].startswith(f"{word}:"), f"{name}: rejected because {answer[3]!r}, not {word}")
    say("rejected", lie=name, reason=answer[3])


def changed(c, value, at=(0, 0)):
    wrong = c.copy()
    wrong[at] = value
    return wrong


def lie_about_consent(volunteer):
    v, now = volunteer, volunteer.coordinator.info["now_ms"]
    again = v.consent({})
    v.open_session(again)
    bad = lambda **change: lambda: v.open_session(v.consent({int(k[1:]): x for k, x in change.items()}))
    refused("nonce used twice", "bad_nonce", lambda: v.open_session(again))
    refused("nonce of our own", "bad_nonce", bad(_2=bytes(32)))
    refused("consent for another coordinator", "bad_consent", bad(_1=v.key.public))
    refused("other terms", "bad_consent", bad(_8=999))
    refused("other version", "bad_consent", bad(_0=2))
    refused("consent that ended", "bad_consent", bad(_9=now - 10_000, _10=now - 5_000))
    refused("consent for ever", "bad_consent", bad(_10=now + 400 * 24 * 3_600_000))
    refused("no share of the device", "bad_consent", bad(_6=0))
    refused("text too long", "bad_consent", bad(_3="x" * 257))
    refused("consent signed by another key", "bad_signature", lambda: v.open_session(v.consent({}), signer=Key()))
    refused("consent with another algorithm", "wrong_algorithm", lambda: v.open_session(v.consent({}), algorithm=-7))
    refused("unprotected header", "bad_cbor", lambda: v.open_session(v.consent({}), unprotected={1000: None}))
    refused("field from the future", "bad_cbor", bad(_12=1))
    refused("field of another type", "bad_cbor", bad(_6="all"))
    refused("job that does not exist", "unknown_job", bad(_5=10**9))
    refused("lease for a job not consented to", "bad_consent", lambda: v.lease(job=10**9))


def lie_about_bodies(volunteer):
    v = volunteer
    request = cbor({0: 1, 1: OTHER, 2: v.job, 3: 1 << 26})
    lease = lambda body, kind=CBOR, **rest: lambda: v.call("POST", "/v1/leases", body, kind, **rest)
    refused("trailing byte", "bad_cbor", lease(request + b"\0"))
    for cut in range(len(request)):
        refused(f"cut to {cut} bytes", "bad_cbor", lease(request[:cut]))
    refused("null for an absent field", "bad_cbor", lease(cbor({0: 1, 1: OTHER, 2: None, 3: 1 << 26})))
    refused("integer in a longer form", "bad_cbor", lease(request[:1] + b"\0\x18\x01" + request[3:]))
    refused("no unit asked for", "bad_request", lease(cbor({0: 0, 1: OTHER, 2: v.job, 3: 1 << 26})))
    refused("wrong content type", "wrong_content_type", lease(request, JSON))
    refused("signed content type on a plain body", "wrong_content_type", lease(request, COSE))
    refused("body over the limit", "body_too_large", lease(bytes(64 * 1024 + 1)))
    refused("another page's origin", "foreign_origin", lease(request, headers={"Origin": "https://elsewhere.example"}))
    refused("cross-site", "foreign_origin", lease(request, headers={"Sec-Fetch-Site": "cross-site"}))
    token, v.token = v.token, "0" * 64
    refused("token of our own", "no_session", lease(request))
    v.token = None
    refused("no token", "no_session", lease(request))
    v.token = token
    refused("unknown job", "unknown_job", lambda: v.coordinator.json("GET", "/v1/jobs/999999"))
    refused("unknown key", "unknown_key", lambda: v.coordinator.json("GET", f"/v1/keys/{bytes(32).hex()}"))
    refused("operator's call", "no_admin", lambda: v.coordinator.json("GET", "/v1/admin/jobs", token=token))


def lie_about_results(volunteer, finished):
    """`finished` is a unit with its accepted statement."""
    v, (old, old_body) = volunteer, finished
    unit, other = v.one_unit(), Volunteer(v.coordinator, v.job)
    data = write_tensor("c", unit.compute())
    missing = hashlib.sha256(b"never uploaded").digest()
    submit = lambda body: lambda: v.submit(body)
    refused("output never uploaded", "output_missing", submit(sign(v.key, "result", unit.result(missing, 9))))
    hash_ = unit.upload(data)
    good = unit.result(hash_, len(data))
    with_ = lambda **change: submit(sign(v.key, "result", {**good, **{int(k[1:]): x for k, x in change.items()}}))
    refused("output of another size", "output_missing", with_(_5=[{0: "c", 1: hash_, 2: len(data) + 1}]))
    *signed, last = sign(v.key, "result", good)
    refused("signature over other bytes", "bad_signature", submit(bytes([*signed, last ^ 1])))
    refused("signed by a key that is not named", "bad_signature", submit(sign(v.key, "result", good, signer=other.key)))
    refused("signed by a key without this session", "wrong_key", submit(sign(other.key, "result", good)))
    refused("wrong algorithm", "wrong_algorithm", submit(sign(v.key, "result", good, algorithm=-7)))
    refused("a consent for a result", "wrong_content_type", submit(sign(v.key, "consent", good)))
    refused("statement with a trailing byte", "bad_cbor", submit(sign(v.key, "result", cbor(good) + b"\0")))
    refused("envelope with a trailing byte", "bad_cbor", submit(sign(v.key, "result", good) + b"\0"))
    other_details = cbor({0: bytes(32), 1: "another", 2: {0: 1, 1: 2}})
    refused("details of another result", "bad_request", lambda: v.submit(sign(v.key, "result", good), other_details))
    bad = sign(v.key, "result", {**good, 7: hashlib.sha256(b"no details").digest()})
    refused("details that are none", "bad_cbor", lambda: v.submit(bad, b"no details"))
    refused("another manifest", "lease_mismatch", with_(_4=bytes(32)))
    refused("a unit that does not exist", "unknown_unit", with_(_2=10**9))
    refused("a lease that does not exist", "unknown_lease", with_(_3=10**9))
    refused("losses of a product", "bad_request", with_(_8=[1]))
    refused("an output of another name", "bad_request", with_(_5=[{0: "d", 1: hash_, 2: len(data)}]))
    refused("another key's lease", "not_your_lease", lambda: other.submit(sign(other.key, "result", good)))
    refused("another key's heartbeat", "not_your_lease", lambda: other.call("POST", f"/v1/leases/{unit.lease}/heartbeat"))
    refused("giving back another key's lease", "not_your_lease", lambda: other.call("DELETE", f"/v1/leases/{unit.lease}"))
    refused("upload under another key's lease", "not_your_lease", lambda: unit.upload(b"x", volunteer=other))
    refused("wrong hash", "hash_mismatch", lambda: unit.upload(data, name=hashlib.sha256(b"other").digest()))
    refused("more than the lease allows", "upload_not_allowed", lambda: unit.upload(bytes(unit.upload_max + 1)))
    refused("output that nobody accepted", "unknown_blob", lambda: v.coordinator.blob(hash_))
    replayed = sign(v.key, "result", {**uncbor(uncbor(old_body).value[2]), 6: 1})
    refused("another result for a used lease", "result_replayed", submit(replayed))
    refused("heartbeat of a used lease", "lease_ended", lambda: v.call("POST", f"/v1/leases/{old.lease}/heartbeat"))
    body = sign(v.key, "result", good)
    expect(settled(v, body, v.submit(body))[2] == ACCEPTED, "after all the lies the honest result is still taken")
    expect(v.coordinator.blob(hash_) == data, "an accepted output is public")

    unit = v.one_unit()
    for _ in range(2):
        v.call("DELETE", f"/v1/leases/{unit.lease}")
    refused("heartbeat of a lease given back", "lease_ended", lambda: v.call("POST", f"/v1/leases/{unit.lease}/heartbeat"))
    refused("upload under a lease given back", "lease_ended", lambda: unit.upload(data))


def lie_about_products(volunteer):
    # Who is caught gets no more work, so each lie is a new key's.
    v, inf, nan = Volunteer(volunteer.coordinator, volunteer.job), np.float32("inf"), np.float32("nan")
    rejected("one wrong entry", "wrong_tensor", v, lambda c: write_tensor("c", changed(c, c[0, 0] + np.float32(1.0))))
    refused("lease of a caught key", "quarantined", v.lease)
    expect(v.view()["quarantined_until_ms"] > v.coordinator.info["now_ms"], "its view does not say so")
    v = Volunteer(v.coordinator, v.job)
    rejected("zeros", "wrong_tensor", v, lambda c: write_tensor("c", np.zeros_like(c)))
    v = Volunteer(v.coordinator, v.job)
    rejected("NaN", "not_finite", v, lambda c: write_tensor("c", changed(c, nan)))
    v = Volunteer(v.coordinator, v.job)
    rejected("infinity", "not_finite", v, lambda c: write_tensor("c", changed(c, inf, (-1, -1))))
    v = Volunteer(v.coordinator, v.job)
    rejected("wrong shape", "wrong_tensor", v, lambda c: write_tensor("c", c.reshape(1, -1)))
    v = Volunteer(v.coordinator, v.job)
    rejected("wrong type", "wrong_tensor", v, lambda c: write_tensor("c", c.view("<u4"), dtype="U32"))
    v = Volunteer(v.coordinator, v.job)
    rejected("header that lies about offsets", "bad_tensor_file", v, lambda c: write_tensor("c", c, stop=c.nbytes + 4))
    v = Volunteer(v.coordinator, v.job)
    rejected("no tensor file", "bad_tensor_file", v, lambda c: b"not a tensor file")


def withdraw(volunteer):
    """The session's end ends its leases."""
    unit = volunteer.one_unit()
    volunteer.call("DELETE", "/v1/sessions")
    refused("lease after withdrawal", "no_session", volunteer.lease)
    again = Volunteer(volunteer.coordinator, volunteer.job)
    leased = again.lease(16)
    expect(unit.unit in [u.unit for u in leased], "withdrawal did not free the unit")
    for other in leased:
        again.call("DELETE", f"/v1/leases/{other.lease}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--job", type=int, required=True)
    parser.add_argument("--lies", action="store_true")
    args = parser.parse_args()
    try:
        coordinator = Coordinator(args.url)
        say("info", key=coordinator.key.hex(), software_version=coordinator.info["software_version"])
        volunteer = Volunteer(coordinator, args.job)
        finished = honest(volunteer)
        if args.lies:
            lie_about_consent(volunteer)
            lie_about_bodies(volunteer)
            lie_about_results(volunteer, finished)
            lie_about_products(volunteer)
        withdraw(volunteer)
        job = coordinator.json("GET", f"/v1/jobs/{args.job}")
        say("done", results_accepted=job["results_accepted"], results_rejected=job["results_rejected"])
    except (Surprise, Refused) as surprise:
        print(f"{type(surprise).__name__}: {surprise}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
