"""Byte-mutation fuzzing of everything that lkca reads from a file.

    python tests/fuzz/mutate.py [--cases N | --seconds S] [--target NAME] [--first SEED]

Each case spoils a small valid file (corpus.py) at random, or what it says of its cube (attributes.py), and reads it:
the read succeeds or raises an LkcaError. Any other exception, a crash, a case of more than 20 s, or one that needs 1
GiB of memory is a finding; the last line names its target and seed, and ``--target NAME --first SEED --cases 1`` plays
it again.

Why not atheris: it guides by coverage of Python bytecode, while the parsers at risk here are compiled (GDAL, HDF5,
zlib), and its last wheels lag behind the Python versions that lkca supports.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from attributes import ATTRIBUTE_TARGETS
from corpus import TARGETS, Target

from lkca.errors import LkcaError

EVERY = TARGETS | ATTRIBUTE_TARGETS
NUMBERS = [
    0,
    1,
    2,
    3,
    127,
    128,
    255,
    256,
    32767,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**64 - 1,
]
WORDS = [
    b"-1", b"0", b"1e308", b"1e999", b"NaN", b"inf", b"99999999999999999999", b"4294967296", b"", b"{", b"}}", b'"',
    b"[", b"\x00", b"\xff\xfe", b"\n", b"=", b": ", b"[" * 2000, b"{a: " * 500, b"*r", b"''",
    b"!!python/object/apply:os.abort []", b"null", b"true", b"../../etc/passwd", b"\xc2\xb5m", b"0x10", b"1_0",
]  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """``data`` with one to six faults: other bits, integers, words, numbers; lost, doubled or foreign stretches."""
    spoiled = bytearray(data)
    head = rng.random() < 0.5  # half of the cases spoil the beginning, where headers are
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        reach = min(len(spoiled), 512) if head else len(spoiled)
        at, length = rng.randrange(reach + 1), rng.choice((1, 2, 4, 8, 16, 64))
        kind = rng.randrange(8)
        if kind == 0 and at < len(spoiled):
            spoiled[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) % 256**width
            spoiled[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif kind == 2:
            spoiled[at : at + length] = rng.randbytes(length)
        elif kind == 3:
            del spoiled[at : at + length]
        elif kind == 4:
            spoiled[at:at] = spoiled[at : at + length]
        elif kind == 5:
            spoiled[at : at + rng.choice((0, length))] = rng.choice(WORDS)
        elif kind == 6:  # a whole number of a text
            digits = [i for i, byte in enumerate(spoiled[:4096]) if 48 <= byte <= 57]
            if digits:
                end = at = rng.choice(digits)
                while end < len(spoiled) and 48 <= spoiled[end] <= 57:
                    end += 1
                spoiled[at:end] = rng.choice(WORDS + [str(n).encode() for n in NUMBERS])
        elif rng.random() < 0.3:
            del spoiled[at:]
    return bytes(spoiled)


def play(name: str, target: Target, valid: dict[str, bytes], folder: Path, seed: int) -> None:
    """One case. Raises what should not have come out of the reader."""
    rng = random.Random(f"{name} {seed}")
    chosen = rng.choice(sorted(valid))
    for file, content in valid.items():
        (folder / file).write_bytes(content)
    if target.spoil is not None:
        target.spoil(folder, rng)
    else:
        (folder / chosen).write_bytes(target.wrap(mutated(target.unwrap(valid[chosen]), rng)))
    try:
        target.read(folder)
    except LkcaError as error:
        text = str(error)
        if "\n" in text or len(text) > 1000:
            raise AssertionError(f"not one sentence: {text[:300]!r}") from error
        if target.spoil is not None and "truncated or damaged" in text:  # what an unforeseen exception becomes
            raise AssertionError(f"the file is whole: {text[:300]!r}") from error


def limit_memory(extra: int) -> None:
    """At most ``extra`` bytes more than this process has now, for whatever it opens."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra,) * 2)


def fuzz(name: str, *, first: int, cases: int | None, seconds: float | None) -> int:
    """Play cases of one target from seed ``first`` on, by number or by time; the number played."""
    target = EVERY[name]
    until = None if seconds is None else time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        valid = {file: (folder / file).read_bytes() for file in target.make(folder)}
        target.read(folder)  # warms up whatever is loaded on first use
        seed = first
        while (seed < first + cases) if cases is not None else (until is None or time.monotonic() < until):
            print(f"{name} {seed}", end="\r", flush=True)
            faulthandler.dump_traceback_later(20, exit=True)
            play(name, target, valid, folder, seed)
            seed += 1
        faulthandler.cancel_dump_traceback_later()
    return seed - first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=EVERY, action="append")
    parser.add_argument("--first", type=int, default=0)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--cases", type=int, help="of each target")
    how.add_argument("--seconds", type=float, help="for each target; seeds begin at a random one")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    faulthandler.enable()
    limit_memory(1 << 30)
    first = random.SystemRandom().randrange(10**9) if options.seconds and not options.first else options.first
    cases = 100 if options.cases is None and options.seconds is None else options.cases
    findings = 0
    for name in options.target or EVERY:
        at = first
        begin = time.monotonic()
        try:
            played = fuzz(name, first=at, cases=cases, seconds=options.seconds)
            print(f"{name}: {played} cases from seed {at}, nothing found ({time.monotonic() - begin:.1f} s)")
        except Exception:
            findings += 1
            print(f"\n{traceback.format_exc()}", flush=True)
    sys.exit(findings > 0)


if __name__ == "__main__":
    main()
