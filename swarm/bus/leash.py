"""Runs a program that does not outlive the process that started it.

    python -I -S leash.py PARENT_PID signal|watch PROGRAM [ARGUMENT…]

A script of its own, without imports from this package: it replaces itself by the program,
which so keeps the process id that the parent knows.  Setting this up between `fork` and
`exec` in the parent instead would run Python in the copy of a process with threads.

`signal` (Linux): the kernel kills the program when the *thread* that started it ends, for
whatever reason; start it from one that lives as long as the program should.
`watch` (any Unix): stdin is a pipe that only the parent holds the other end of; a small
process waits for its end and kills the program then.
"""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Does not return."""
    parent, mode, *command = arguments
    if mode == "signal":
        die_with_parent(int(parent))
    else:
        watch()
    os.execv(command[0], command)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone."""
    import ctypes  # noqa: PLC0415 - only where it is needed: this must start quickly

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"leash: prctl failed: {os.strerror(ctypes.get_errno())}")
    # It may have died before; then no signal comes any more.
    if os.getppid() != parent:
        sys.exit(1)


def watch() -> None:
    """Leave a process behind that kills this one when stdin is at its end."""
    program = os.getpid()
    if os.fork() != 0:
        return
    os.setsid()
    while os.read(0, 4096):
        pass  # nothing is meant to come; only the end counts
    # If the program has ended by itself, its number may belong to somebody else by now.
    if os.getppid() == program:
        os.kill(program, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
