"""The disk of a memory world's server: how much is kept, and how much fits."""

from __future__ import annotations

from collections.abc import Callable

from swarm.bus.base import Storage
from swarm.errors import StorageFull


class Disk:
    """What logs, records and shared state take together.  `capacity`: bytes, 0 = no end."""

    def __init__(self) -> None:
        self.used = 0
        self.capacity = 0
        #: Called to let go of what is too old to be kept.
        self.reclaim: Callable[[], None] = lambda: None

    def take(self, what: str, size: int) -> None:
        """Use `size` more bytes; raises `StorageFull` when they do not fit."""
        if not self.fits(size):
            self.reclaim()
        if not self.fits(size):
            raise StorageFull(
                f"{what}: the server has no room: {self.used} of {self.capacity} bytes are used"
            )
        self.used += size

    def fits(self, size: int) -> bool:
        """Whether `size` more bytes can be used."""
        return not self.capacity or self.used + size <= self.capacity

    def give(self, size: int) -> None:
        """Use `size` bytes less."""
        self.used -= size
        assert self.used >= 0, "gave back more than was taken"

    def figures(self) -> Storage:
        """As the bus tells them."""
        self.reclaim()
        return Storage(self.used, self.capacity)
