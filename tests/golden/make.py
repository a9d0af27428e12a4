"""Write the golden files of a new version; what is there already is never touched.

    python -m tests.golden.make

Do this when a message or an event has changed: the files of the earlier versions stay as
they are, and must still be read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import NODEFAULT, Raw, Struct, structs

from tests.golden.examples import EXAMPLES
from tests.golden.files import GoldenEntry, GoldenMessage, fold, versions
from tests.golden.scenario import record

_encode = msgspec.json.encode


def main(folder: Path, version: int) -> None:
    """Write the three files of `version`; FileExistsError if one of them is there."""
    entries = record()
    lines = [GoldenEntry(entry.seq, entry.time, entry.data.decode()) for entry in entries]
    state = msgspec.json.format(_encode(fold(entries)), indent=1) + b"\n"
    _write(folder / f"messages-v{version}.jsonl", b"".join(map(_line, messages())))
    _write(folder / f"log-v{version}.jsonl", b"".join(map(_line, lines)))
    _write(folder / f"log-v{version}.state.json", state)


def messages() -> Iterator[GoldenMessage]:
    """Every example in every form that it has."""
    for name, (minimal, full) in EXAMPLES.items():
        yield GoldenMessage(f"{name} minimal", name, "minimal", Raw(_encode(minimal)))
        if full != minimal:
            yield GoldenMessage(f"{name} full", name, "full", Raw(_encode(full)))
        spelled = spell_out(minimal)
        if spelled != _encode(minimal):
            yield GoldenMessage(f"{name} spelled", name, "spelled", Raw(spelled))


def spell_out(message: Struct) -> bytes:
    """The message with its defaults written out, in another order, as people write it."""
    written = msgspec.json.decode(_encode(message))
    if isinstance(written, list):
        return _encode(message)  # an array always says all
    defaults = {}
    for field in structs.fields(message):
        if field.default is not NODEFAULT:
            defaults[field.encode_name] = field.default
        elif field.default_factory is not NODEFAULT:
            defaults[field.encode_name] = field.default_factory()
    missing = {name: value for name, value in defaults.items() if name not in written}
    return _encode({**missing, **written}) if missing else _encode(message)


def _line(value: Struct) -> bytes:
    return _encode(value) + b"\n"


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
    sys.stdout.write(f"wrote {path.name}\n")


if __name__ == "__main__":
    main(Path(__file__).parent, max(versions(), default=0) + 1)
