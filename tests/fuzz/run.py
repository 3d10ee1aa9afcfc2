"""``python -m tests.fuzz.run TARGET SECONDS [FOLDER]``: a target under atheris, for so long.

It begins with the committed corpus; what it finds is kept in FOLDER (a temporary one). The exit
status is 0 if nothing was found; else the input that failed is printed in hex digits. Where atheris
is not to be had, the corpus is mutated without its guidance.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
#: As long as anything of interest: beyond that only payloads grow.
LONGEST_BYTES = 700
#: The same mutations each time, as far as time allows.
SEED = 20_261_122


def corpus(target: str) -> list[bytes]:
    """Return the committed inputs of a target: all frames, behind what the target wants there."""
    frames = []
    for path in sorted(CORPUS.glob("*/*.hex")):
        digits = "".join(line.partition("#")[0] for line in path.read_text().splitlines())
        frame = bytes.fromhex(digits)
        frames.append(frame)
        frames.append(frame[12:] if path.parent.name == "wire" else bytes(12) + frame)
    if target in ("guard", "compiled"):
        return [bytes((choices,)) + frame for frame in frames for choices in (3, 31)]
    return frames


def blindly(test: Callable[[bytes], None], inputs: list[bytes], seconds: float) -> int:
    """Mutate without guidance; return how many inputs were tried."""
    chance = random.Random(SEED)
    until, runs = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        data = bytearray(inputs[runs % len(inputs)])
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        del data[chance.choice((len(data), chance.randrange(len(data)))) :]
        test(bytes(data))
        runs += 1
    return runs


def main(name: str, seconds: str, folder: str = "") -> None:
    """Fuzz one target; see the module."""
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        atheris = None
    instrumented = contextlib.nullcontext() if atheris is None else atheris.instrument_imports()
    with instrumented:
        target = importlib.import_module("tests.fuzz.targets").TARGETS[name]

    def test(data: bytes) -> None:
        try:
            target(bytes(data))
        except BaseException:
            traceback.print_exc()
            print(f"{name} fails with {bytes(data).hex()}", file=sys.stderr, flush=True)
            raise

    inputs = corpus(name)
    if atheris is None:
        print(f"Done {blindly(test, inputs, float(seconds))} runs without guidance")
        return
    with contextlib.ExitStack() as there:
        place = Path(folder or there.enter_context(tempfile.TemporaryDirectory()))
        for number, data in enumerate(inputs):
            (place / f"seed-{number:04}").write_bytes(data)
        limits = (f"-max_total_time={seconds}", f"-max_len={LONGEST_BYTES}", f"-seed={SEED}")
        atheris.Setup(
            [name, *limits, "-timeout=60", f"-artifact_prefix={place}/", str(place)], test
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
