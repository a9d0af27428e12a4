"""HTTP for load balancers, Prometheus and people: ``/health``, ``/ready``, ``/metrics``, and the
API for clients that do not speak NATS (`swarm.web.api`)."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from swarm.discovery.base import in_url
from swarm.errors import BadInput
from swarm.web.api import Api, errors_as_json
from swarm.web.statuses import json_response

#: A state to show: whether it is good, and the JSON body.
Probe = Callable[[], tuple[bool, dict[str, Any]]]
#: A text to show, and its content type.
Text = Callable[[], Awaitable[tuple[bytes, str]]]


class HttpServer:
    """Answers each path by asking its probe (200 when it is good, else 503), or its text."""

    def __init__(
        self,
        probes: dict[str, Probe],
        texts: dict[str, Text] | None = None,
        api: Api | None = None,
    ) -> None:
        self._probes = probes
        self._texts = texts or {}
        self._api = api
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes any free one.  `BadInput` when it cannot."""
        app = web.Application(middlewares=[errors_as_json])
        for path, probe in self._probes.items():
            app.router.add_get(path, _handler(probe))
        for path, text in self._texts.items():
            app.router.add_get(path, _text_handler(text))
        if self._api is not None:
            self._api.add_to(app)
        # Whoever hangs up may ask another node in the next moment: nothing goes on for it here.
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            auto_decompress=False,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            raise BadInput(_cannot_listen(host, port, error)) from error
        self._runner = runner
        bound = runner.addresses[0][1]
        shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
        self.url = f"http://{in_url(shown)}:{bound}"

    async def stop(self) -> None:
        """Stop listening; safe to call twice."""
        runner, self._runner = self._runner, None
        if self._api is not None:
            # Long polls end, and their clients ask another node.
            await self._api.close()
        if runner is not None:
            await runner.cleanup()


def _handler(probe: Probe) -> Callable[[web.Request], Any]:
    async def answer(_request: web.Request) -> web.Response:
        good, body = probe()
        return json_response(body, 200 if good else 503)

    return answer


def _text_handler(text: Text) -> Callable[[web.Request], Any]:
    async def answer(_request: web.Request) -> web.Response:
        body, content_type = await text()
        headers = {"Content-Type": content_type, "Cache-Control": "no-store"}
        return web.Response(body=body, headers=headers)

    return answer


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    where = f"HTTP port {port} on {host}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use; choose another with --http-port or HTTP_PORT (0: any free one)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{where} needs more rights; choose one above 1023 with --http-port or HTTP_PORT"
    return f"{where} cannot be listened on: {error.strerror or error}"
