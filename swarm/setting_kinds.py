"""What a setting's value may be, and how it is read from text or a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from swarm.core.rules import ROUTING_KEYS, parse_rules
from swarm.errors import BadConfig
from swarm.messages import TOKEN_PATTERN

_TOKEN = re.compile(TOKEN_PATTERN)
_SERVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}(?!\n)$")
_COORDINATOR = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9_-]{0,63})"
    r"(=(?P<host>[A-Za-z0-9][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\]))?"
    r"(:(?P<port>[0-9]{0,5}))?"
)


class Kind(Protocol):
    """Turns what stands in the environment (text) or the file into a field's value."""

    @property
    def allowed(self) -> str:
        """What may be written, for people."""
        ...

    def read(self, raw: object) -> object:
        """The value; ValueError (its text says more, or is empty) for anything else."""
        ...


@dataclass(frozen=True)
class Whole:
    low: int
    high: int

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def read(self, raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            raise ValueError
        value = _number(int, raw)
        if not self.low <= value <= self.high:
            raise ValueError
        return int(value)


@dataclass(frozen=True)
class Seconds:
    low: float
    high: float

    @property
    def allowed(self) -> str:
        return f"seconds from {self.low:g} to {self.high:_.0f}"

    def read(self, raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float | str):
            raise ValueError
        value = _number(float, raw)
        # Written so that not-a-number fails as well.
        if not self.low <= value <= self.high:
            raise ValueError
        return float(value)


@dataclass(frozen=True)
class Part:
    """Of a whole."""

    low: float
    high: float

    @property
    def allowed(self) -> str:
        return f"a part of the whole, from {self.low:g} to {self.high:g}"

    def read(self, raw: object) -> float:
        return Seconds(self.low, self.high).read(raw)


def _number(kind: type[int] | type[float], raw: float | str) -> float:
    try:
        return kind(raw)
    except ValueError:
        raise ValueError from None  # Python's own text says less than ours


@dataclass(frozen=True)
class Choice:
    choices: tuple[str | int, ...]

    @property
    def allowed(self) -> str:
        return ", ".join(str(choice) for choice in self.choices)

    def read(self, raw: object) -> str | int:
        for choice in self.choices:
            if not isinstance(raw, bool) and str(raw).strip() == str(choice):
                return choice
        raise ValueError


class Switch:
    allowed = "0, 1, false, true"

    def read(self, raw: object) -> bool:
        match raw:
            case bool():
                return raw
            case "1" | "true" | 1:
                return True
            case "0" | "false" | 0:
                return False
            case _:
                raise ValueError


class Token:
    allowed = "1 to 64 letters, digits, '_' or '-', beginning with a letter or digit"

    def read(self, raw: object) -> str:
        if not isinstance(raw, str) or not _TOKEN.match(raw):
            raise ValueError
        return raw


class Coordinators:
    allowed = (
        "coordinator names, each with =host and :port if wanted, like: "
        "coordinator-1:4000 coordinator-2=10.0.0.7:4000"
    )

    def read(self, raw: object) -> list[str]:
        if isinstance(raw, list) and all(isinstance(word, str) for word in raw):
            raw = " ".join(raw)
        if not isinstance(raw, str):
            raise ValueError
        return [address.text for address in parse_coordinators(raw)]


class Urls:
    allowed = "empty, or addresses with http://, https:// or dns://, separated by commas"

    def read(self, raw: object) -> str:
        if not isinstance(raw, str):
            raise ValueError
        for url in filter(None, (part.strip() for part in raw.split(","))):
            scheme, colons, rest = url.partition("://")
            if not colons or scheme not in ("http", "https", "dns") or " " in rest:
                raise ValueError(f"{url!r} is none")
            if scheme != "dns" and not rest:
                raise ValueError(f"{url!r} names no host")
        return raw.strip()


class Service:
    allowed = "a service's name: letters, digits, '_', '-', '.' and '/'"

    def read(self, raw: object) -> str:
        if not isinstance(raw, str) or not _SERVICE.match(raw):
            raise ValueError
        return raw


class Rules:
    allowed = "lines like: feature -> coordinator-1:4000"

    def read(self, raw: object) -> str:
        if not isinstance(raw, str):
            raise ValueError
        # By which key they are to be read, another setting says.
        errors = [error for key in ROUTING_KEYS if (error := _error_in(raw, key))]
        if len(errors) == len(ROUTING_KEYS):
            raise ValueError(errors[0])
        return raw.strip()


def _error_in(rules: str, key: str) -> str:
    try:
        parse_rules(rules, key)
    except BadConfig as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class Address:
    """A coordinator of the list: its name, and where it answers HTTP."""

    name: str
    #: The name, where none is given.
    host: str
    #: 0: not given.
    port: int
    #: As it was written.
    text: str


def parse_coordinators(text: str) -> list[Address]:
    """What is in ``name[=host][:port]`` words; ValueError names the word that is none."""
    found: dict[str, Address] = {}
    for word in text.split():
        match = _COORDINATOR.fullmatch(word)
        if match is None:
            raise ValueError(_no_coordinator(word))
        name, host, port = match["name"], match["host"] or match["name"], match["port"]
        if port is not None and not (port and 1 <= int(port) <= 65_535):
            raise ValueError(f"{word!r} has no port from 1 to 65535")
        if name in found:
            raise ValueError(f"{name!r} is there twice")
        found[name] = Address(name, host, int(port or 0), word)
    return list(found.values())


def _no_coordinator(word: str) -> str:
    name, sign, rest = word.partition("=")
    host, colon, _port = (rest if sign else name).rpartition(":")
    if colon and _TOKEN.match(host if not sign else name):
        return f"{word!r} has no port from 1 to 65535"
    return f"{word!r} is no coordinator name"
