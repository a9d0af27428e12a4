"""Readers that wait for an item to end, or to change: long polls, in the owner's memory only.

An owner that falls takes them with it; whoever waits asks the next owner again.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from swarm.actors.requests import Request


@dataclass(slots=True)
class _Waiter:
    request: Request
    deadline: float


class Waiters:
    """Requests to be answered when their item has changed, or their time is over."""

    def __init__(self) -> None:
        self._by_item: dict[int, list[_Waiter]] = {}
        #: Items that somebody waits for.
        self.items = self._by_item.keys()
        self._taken: list[_Waiter] = []

    def add(self, number: int, request: Request, deadline: float) -> None:
        """`request` waits for item `number`, until `deadline` (monotonic)."""
        self._by_item.setdefault(number, []).append(_Waiter(request, deadline))

    def take(self, number: int) -> list[Request]:
        """Something happened to the item: who waits for that."""
        self._taken = self._by_item.pop(number, [])
        return [waiter.request for waiter in self._taken]

    def put_back(self, number: int, request: Request) -> None:
        """It was not what this one, taken last, waits for."""
        waiter = next(one for one in self._taken if one.request is request)
        self._by_item.setdefault(number, []).append(waiter)

    def expired(self, now: float) -> list[tuple[int, Request]]:
        """(item, request) of those that waited long enough."""
        over: list[tuple[int, Request]] = []
        for number, waiters in list(self._by_item.items()):
            over += [(number, waiter.request) for waiter in waiters if waiter.deadline <= now]
            left = [waiter for waiter in waiters if waiter.deadline > now]
            if left:
                self._by_item[number] = left
            else:
                del self._by_item[number]
        return over

    def taken(self, now: float) -> list[Request]:
        """All requests, for another owner to wait on for the rest of their time; none is left."""
        left: list[Request] = []
        for waiters in self._by_item.values():
            for waiter in waiters:
                rest_s = max(0.0, waiter.deadline - now)
                body = msgspec.structs.replace(waiter.request.body, wait_s=rest_s)
                left.append(msgspec.structs.replace(waiter.request, body=body))
        self._by_item.clear()
        return left

    def clear(self) -> None:
        """Forget all: they will ask again."""
        self._by_item.clear()
