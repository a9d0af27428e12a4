"""Where the processes of a run are, and the links between them.

`Namespaces`: every member has a network of its own, joined by a bridge to that of the run,
so that any link can be cut.  The run itself is in a network of its own, too: nothing of the
machine's is touched, and all is gone with the last process.  `Loopback`: everybody is on
this machine's 127.0.0.1 and no link can be cut; for where namespaces are not to be had.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from typing import Protocol

from swarm.errors import BadInput, SwarmError
from swarm.testing.ports import free_ports

#: Of the bridge; members are numbered from 11.
SUBNET = "10.77.0"
HUB = f"{SUBNET}.1"
#: What a link is made of.
PROBE = "ip link add name probe0 type veth peer name probe1 && ip link add hub0 type bridge"
#: Nobody has this address: what is sent to it is lost without a trace.
NOWHERE = "02:00:00:00:00:01"
#: The network that the process which runs inside its own has left.
INSIDE = "SWARM_CHAOS_INSIDE"


class Network(Protocol):
    """Places for members."""

    @property
    def links(self) -> bool:
        """Whether links can be cut."""
        ...

    def host(self, name: str) -> str:
        """The address of this member, made if it is new."""
        ...

    def port(self, name: str, usual: int) -> int:
        """A port of this member's: `usual` where every member has its own ports."""
        ...

    def wrap(self, name: str, command: list[str]) -> list[str]:
        """The command that runs `command` at this member's place."""
        ...

    def cut(self, name: str) -> None:
        """Nothing gets to this member or away from it, until `heal`."""
        ...

    def heal(self, name: str) -> None:
        """Undo `cut`."""
        ...

    def split(self, one: str, other: str) -> None:
        """These two cannot reach one another, until `join`."""
        ...

    def join(self, one: str, other: str) -> None:
        """Undo `split`."""
        ...


class Loopback:
    """All on 127.0.0.1."""

    links = False

    def __init__(self) -> None:
        self._ports: dict[tuple[str, int], int] = {}

    def host(self, name: str) -> str:
        """See `Network`."""
        return "127.0.0.1"

    def port(self, name: str, usual: int) -> int:
        """A free one, the same at each call."""
        if (name, usual) not in self._ports:
            (self._ports[name, usual],) = free_ports(1, self._ports.values())
        return self._ports[name, usual]

    def wrap(self, name: str, command: list[str]) -> list[str]:
        """See `Network`."""
        return command

    def cut(self, name: str) -> None:
        """Not possible here."""
        raise BadInput(f"the link of {name} cannot be cut on the loopback interface")

    def split(self, one: str, other: str) -> None:
        """Not possible here."""
        self.cut(one)

    heal = cut
    join = split


class Namespaces:
    """A network namespace for each member, on a bridge in this process's own."""

    links = True

    def __init__(self) -> None:
        """Only for a process that `enter` has started."""
        self._nsenter = shutil.which("nsenter") or "nsenter"
        #: By member: a file that keeps the namespace alive, and its address.
        self._places: dict[str, tuple[int, str]] = {}
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "hub0", "type", "bridge")
        _run("ip", "addr", "add", f"{HUB}/24", "dev", "hub0")
        _run("ip", "link", "set", "hub0", "up")

    def host(self, name: str) -> str:
        """See `Network`."""
        return self._place(name)[1]

    def port(self, name: str, usual: int) -> int:
        """`usual`."""
        return usual

    def wrap(self, name: str, command: list[str]) -> list[str]:
        """See `Network`."""
        # The process replaces itself by the command, which keeps its process id.
        return [*self._inside(name), *command]

    def cut(self, name: str) -> None:
        """See `Network`: like a cable that is pulled out at the switch."""
        _run("ip", "link", "set", self._port_of(name), "down")

    def heal(self, name: str) -> None:
        """See `Network`."""
        _run("ip", "link", "set", self._port_of(name), "up")

    def split(self, one: str, other: str) -> None:
        """See `Network`: each sends what is for the other to an address that nobody has."""
        for here, there in ((one, other), (other, one)):
            to = ("neigh", "replace", self.host(there), "lladdr", NOWHERE)
            _run(*self._inside(here), "ip", *to, "dev", "eth0", "nud", "permanent")

    def join(self, one: str, other: str) -> None:
        """See `Network`."""
        for here, there in ((one, other), (other, one)):
            to = ("neigh", "del", self.host(there), "dev", "eth0")
            _run(*self._inside(here), "ip", *to)

    def _inside(self, name: str) -> list[str]:
        file, _ = self._place(name)
        return [self._nsenter, f"--net=/proc/{os.getpid()}/fd/{file}", "--"]

    def _port_of(self, name: str) -> str:
        """The bridge's end of the member's cable."""
        return f"port{list(self._places).index(name)}"

    def _place(self, name: str) -> tuple[int, str]:
        found = self._places.get(name)
        if found is not None:
            return found
        number = len(self._places)
        address = f"{SUBNET}.{11 + number}"
        # It holds the namespace until we have a file of it.
        holder = subprocess.Popen(
            ["unshare", "--net", "--", "sh", "-c", "echo; cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None, "a pipe was asked for"
        holder.stdout.readline()
        try:
            file = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self._places[name] = file, address
            port = self._port_of(name)
            pair = ("type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
            _run("ip", "link", "add", port, *pair)
            _run("ip", "link", "set", port, "master", "hub0", "up")
            inside = self._inside(name)
            _run(*inside, "ip", "link", "set", "lo", "up")
            _run(*inside, "ip", "addr", "add", f"{address}/24", "dev", "eth0")
            _run(*inside, "ip", "link", "set", "eth0", "up")
        finally:
            holder.communicate()
        return self._places[name]


def enter(arguments: list[str]) -> str:
    """Start this program anew in a network of its own, and do not return; or say why not.

    `arguments`: of the program, behind the interpreter.
    """
    if _is_inside():
        return ""
    missing = [tool for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None]
    if sys.platform != "linux" or missing:
        return f"missing: {', '.join(missing)}" if missing else "this is not Linux"
    why = ""
    # As root it is simple; others need user namespaces, which not every system allows.
    for options in (["--net"], ["--user", "--map-root-user", "--net"]):
        probe = subprocess.run(
            ["unshare", *options, "--", "sh", "-c", PROBE], capture_output=True, check=False
        )
        if probe.returncode == 0:
            os.environ[INSIDE] = _own_network()
            command = ["unshare", *options, "--", sys.executable, *arguments]
            os.execvp(command[0], command)
        why = why or probe.stderr.decode(errors="replace").strip()
    return f"no network namespaces for us: {why}"


def make_network() -> Network:
    """Namespaces inside `enter`, else the loopback interface."""
    return Namespaces() if _is_inside() else Loopback()


def _is_inside() -> bool:
    """Whether this process is in another network than the one it was started in."""
    return os.environ.get(INSIDE, "") not in {"", _own_network()}


def _own_network() -> str:
    return os.readlink("/proc/self/ns/net")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise BadInput(f"{' '.join(command)}: {said}")


# --- proof --------------------------------------------------------------------------------

PROBE_PORT = 4999
REACHED_S = 5.0
LISTEN = f"""
import socket
listener = socket.create_server(("", {PROBE_PORT}))
while True:
    listener.accept()[0].close()
"""
CONNECT = f"""
import socket, sys
socket.create_connection((sys.argv[1], {PROBE_PORT}), float(sys.argv[2])).close()
"""


def prove(network: Network) -> None:
    """Raise `SwarmError` unless cutting and splitting links has the effect that it must have."""
    python = [sys.executable, "-I", "-c"]
    listener = subprocess.Popen(network.wrap("probe-1", [*python, LISTEN]))
    try:
        _expect(network, "at first", reached=True)
        network.cut("probe-1")
        _expect(network, "although its link is cut", reached=False)
        network.heal("probe-1")
        _expect(network, "after its link was cut", reached=True)
        network.split("probe-1", "probe-2")
        _expect(network, "although the two are split", reached=False)
        network.join("probe-1", "probe-2")
        _expect(network, "after the two were split", reached=True)
    finally:
        listener.kill()
        listener.wait()


def _expect(network: Network, when: str, *, reached: bool) -> None:
    """Whether the second probe reaches the first one must be as said."""
    give_up_at = time.monotonic() + REACHED_S
    host, patience_s = network.host("probe-1"), "0.5"
    command = [sys.executable, "-I", "-c", CONNECT, host, patience_s]
    while True:
        done = subprocess.run(network.wrap("probe-2", command), capture_output=True, check=False)
        if (done.returncode == 0) == reached:
            return
        if not reached or time.monotonic() > give_up_at:
            can = "can be" if done.returncode == 0 else "cannot be"
            raise SwarmError(f"the test network is of no use: a probe {can} reached {when}")
