#!/usr/bin/env python3
"""Makes text.txt from Debian's package r-cran-janeaustenr: Jane Austen's six novels as one UTF-8 file, `\\n` at each
line's end. Reads R's own files with Python's standard library alone; trains nothing, cuts nothing.

    extract.py [LIBRARY/janeaustenr/data] > text.txt

The package holds one character vector of lines for each novel in a lazy-load database: `Rdata.rdx`, compressed by gzip,
says where in `Rdata.rdb` each variable lies, and there lie a big-endian u32, the length of what follows unpacked, and
the bytes packed by zlib (R's `src/main/serialize.c`, R_compress1). Both hold R's XDR serialisation, of which this reads
what these files use. Exits with 1 and a sentence on anything else.
"""

import gzip
import pathlib
import struct
import sys
import zlib

FOLDER = "/usr/lib/R/site-library/janeaustenr/data"
# The order of their publication; "Persuasion", of the same month as "Northanger Abbey", ends up in what is held out.
NOVELS = ["sensesensibility", "prideprejudice", "mansfieldpark", "emma", "northangerabbey", "persuasion"]
UNPACKED_BYTES_MAX = 8 << 20

# Types of R's serialisation (R Internals, section 1.8).
NIL, REFERENCE, SYMBOL, PAIRS, CHARS, LOGICALS, INTEGERS, STRINGS, LIST = 254, 255, 1, 2, 9, 10, 13, 16, 19
HAS_ATTRIBUTES, HAS_TAG = 1 << 9, 1 << 10


class Reader:
    """One serialised value; strings come as bytes."""

    def __init__(self, data):
        self.data, self.at, self.symbols = data, 0, []
        if self.take(2) != b"X\n":
            raise ValueError("not R's XDR serialisation")
        version = self.integer()
        self.take(8)
        if version == 3:
            self.take(self.integer())
        elif version != 2:
            raise ValueError(f"serialisation version {version}")

    def take(self, count):
        piece = self.data[self.at : self.at + count]
        if count < 0 or len(piece) != count:
            raise ValueError("the value ends early")
        self.at += count
        return piece

    def integer(self):
        return struct.unpack(">i", self.take(4))[0]

    def pairs(self, flags):
        found = {}
        while flags & 255 == PAIRS:
            if flags & HAS_ATTRIBUTES:
                self.value()
            name = self.value() if flags & HAS_TAG else None
            found[name] = self.value()
            flags = self.integer()
        if flags & 255 != NIL:
            raise ValueError("a list of pairs has no end")
        return found

    def value(self):
        flags = self.integer()
        kind = flags & 255
        if kind == NIL:
            return None
        if kind == SYMBOL:
            self.symbols.append(self.value())
            return self.symbols[-1]
        if kind == REFERENCE:
            return self.symbols[(flags >> 8) - 1]
        if kind == PAIRS:
            return self.pairs(flags)
        if kind == CHARS:
            length = self.integer()
            return None if length == -1 else self.take(length)
        if kind in (LOGICALS, INTEGERS):
            values = [self.integer() for _ in range(self.integer())]
        elif kind in (STRINGS, LIST):
            values = [self.value() for _ in range(self.integer())]
        else:
            raise ValueError(f"type {kind} is not expected here")
        if flags & HAS_ATTRIBUTES:
            names = (self.pairs(self.integer()) or {}).get(b"names")
            if names:
                return dict(zip(names, values))
        return values


def unpack(packed):
    """A piece of the database."""
    (length,) = struct.unpack(">I", packed[:4])
    if length > UNPACKED_BYTES_MAX:
        raise ValueError(f"{length} bytes unpacked")
    data = zlib.decompress(packed[4:])
    if len(data) != length:
        raise ValueError(f"{len(data)} bytes, {length} were announced")
    return data


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else FOLDER)
    index = Reader(gzip.decompress((folder / "Rdata.rdx").read_bytes())).value()
    database = (folder / "Rdata.rdb").read_bytes()
    for novel in NOVELS:
        start, length = index[b"variables"][novel.encode()]
        lines = Reader(unpack(database[start : start + length])).value()
        text = b"".join(line + b"\n" for line in lines)
        text.decode("utf-8")
        sys.stdout.buffer.write(text)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, KeyError, zlib.error) as error:
        sys.exit(f"extract.py: {error}")
