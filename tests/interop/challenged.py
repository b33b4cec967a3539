#!/usr/bin/env python3
"""A volunteer that commits to its training states and is challenged, on the independent client and docs/protocol.md alone.

    challenged.py URL --job ID --kind KIND

The coordinator must challenge every result, and ask for segments. Kinds: honest (commits to the states it came through and shows the
ends of the segment that is drawn), made-up (commits to states that it made up, and shows those), silent (the same, but
answers that it cannot show them). The first must be accepted, the second caught at once, the third caught once silence is a
habit. Prints one JSON line a result; exits with 1 at a surprise.
"""

import argparse
import hashlib
import sys
import time

import numpy as np
from cheater import PATIENCE_S, TrainVolunteer, write_tensors
from client import ACCEPTED, COSE, PENDING, REJECTED, Coordinator, Refused, Surprise, cbor, expect, say, sign, uncbor

CHALLENGED = 3
ENDS, NOTHING = 4, 3  # what is asked
UNABLE = [3]  # an answer


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


# --- section 8: trees over states ---------------------------------------------------------------------------------


def split(count):
    return 1 << (count - 1).bit_length() - 1


def root(leaves):
    if len(leaves) == 1:
        return leaves[0]
    left = split(len(leaves))
    return sha256(b"\1", root(leaves[:left]), root(leaves[left:]))


def path(leaves, index):
    if len(leaves) == 1:
        return []
    left = split(len(leaves))
    if index < left:
        return [*path(leaves[:left], index), root(leaves[left:])]
    return [*path(leaves[left:], index - left), root(leaves[:left])]


def state_leaf(state):
    """A state's leaf in a tree over states."""
    tensors = sorted(state.items(), key=lambda item: item[0].encode())
    leaves = [sha256(b"\0manyhands state\0", name.encode(), b"\0", values.astype("<f4").tobytes()) for name, values in tensors]
    return sha256(b"\0manyhands states\0\0", root(leaves))


# --- one result ---------------------------------------------------------------------------------------------------


def made_up(states):
    """States on the straight way from the first to the last, which need no training."""
    first, last, count = states[0], states[-1], len(states) - 1
    on_the_way = lambda at: {name: first[name] + (last[name] - first[name]) * np.float32(at / count) for name in first}
    return [first, *(on_the_way(at) for at in range(1, count)), last]


def flat(part, state):
    return {f"{part}.{name}": values.ravel() for name, values in state.items()}


def ends(unit, states, first_step, steps):
    """The answer to a question for a segment's ends, its file uploaded."""
    leaves, end = [state_leaf(state) for state in states], first_step + steps
    index = first_step // unit.every
    expect(first_step == index * unit.every and end == min(first_step + unit.every, unit.steps), "no segment between states")
    shown, paths = {}, [[], []]
    if first_step > 0:
        shown, paths[0] = flat("before", states[index]), path(leaves, index)
    if end < unit.steps:
        shown, paths[1] = {**shown, **flat("after", states[index + 1])}, path(leaves, index + 1)
    data = write_tensors(shown)
    hash_ = sha256(data)
    unit.volunteer.call("PUT", f"/v1/blobs/{hash_.hex()}?lease={unit.lease}", data, "application/octet-stream")
    return [4, {0: hash_, 1: len(data), 2: paths[0], 3: paths[1]}]


def one(volunteer, kind):
    """A result, its challenge and the verdict."""
    unit = volunteer.train_unit()
    expect(unit.every is not None, "the unit asks for no commitment")
    delta, losses = unit.update()
    states = unit.states if kind == "honest" else made_up(unit.states)
    committed = {0: unit.every, 1: root([state_leaf(state) for state in states])}
    body = unit.submit(delta, losses, {9: committed})
    answer = volunteer.submit(body)
    expect(answer[2] == CHALLENGED, f"not challenged: {answer}")
    where = f"/v1/challenges/{unit.lease}"
    asked = uncbor(volunteer.call("GET", where)[1])
    expect(asked[0] == unit.lease and asked[1][0] == ENDS and asked[2] > 0, f"asked {asked}")
    reply = UNABLE if kind == "silent" else ends(unit, states, *asked[1][1:])
    signed = sign(volunteer.key, "challenge-answer", {0: 1, 1: unit.lease, 2: reply})
    after = uncbor(volunteer.call("POST", where, signed, COSE)[1])
    expect(after[1] == [NOTHING] and after[2] == 0, f"then asked {after}")
    deadline = time.monotonic() + PATIENCE_S
    while answer[2] in (PENDING, CHALLENGED):
        expect(time.monotonic() < deadline, "a challenge stays open")
        answer = volunteer.submit(body)
    say(kind, verdict=answer[2], reason=answer[3], unit=unit.unit, asked=asked[1][1:])
    return answer


def run(coordinator, job, kind):
    volunteer = TrainVolunteer(coordinator, job)
    answers = [one(volunteer, kind) for _ in range(3 if kind == "silent" else 1)]
    if kind == "honest":
        expect(answers[0][2] == ACCEPTED and answers[0][4] > 0, f"an honest segment got {answers[0]}")
        return
    expect(all(answer[2] == REJECTED for answer in answers), f"{kind}: {answers}")
    expect(all(answer[3].startswith("unanswered:") for answer in answers[:-1]), f"{kind}: {answers}")
    expect(answers[-1][3].startswith("caught:"), f"{kind}: {answers}")
    expect("quarantined_until_ms" in volunteer.view(), f"{kind}: not in quarantine")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--job", type=int, required=True)
    parser.add_argument("--kind", required=True, choices=["honest", "made-up", "silent"])
    args = parser.parse_args()
    try:
        run(Coordinator(args.url), args.job, args.kind)
    except (Surprise, Refused) as surprise:
        print(f"{type(surprise).__name__}: {surprise}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
