"""What every request to the live page must pass before anything is answered."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

LONGEST_ADDRESS = 1024
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/\s]+)(?::\d{1,5})?")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def guard(hosts: frozenset[str], token: str | None) -> Middleware:
    """What every request must pass; `hosts` and `token` as for `server.application`."""
    return Middleware(_Guard, hosts=hosts, token=token)


class _Guard:
    """Refuses strange hosts, anything but questions, long questions, bodies, and visitors without the token."""

    def __init__(self, app: Any, hosts: frozenset[str], token: str | None) -> None:
        self._app, self._hosts, self._token = app, hosts, token
        # a browser shares cookies between the ports of a host, and so do the pages of two watchers there
        self._cookie = "cellengine_" + hashlib.sha256((token or "").encode()).hexdigest()[:12]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        refusal = self._refusal(Request(scope))

        async def send_guarded(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                sent = {name.lower() for name, _ in message["headers"]}
                own = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items() if k.lower().encode() not in sent]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        answer: Callable[..., Awaitable[None]] = refusal or self._app
        await answer(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        if _host(request.headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("This page is not known by that name.", 421)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("Only questions are answered.", 405, headers={"Allow": "GET, HEAD"})
        if request.headers.get("transfer-encoding") or request.headers.get("content-length", "0") != "0":
            return PlainTextResponse("A question has no body.", 413)
        if len(request.scope.get("raw_path") or b"") + len(request.scope["query_string"]) > LONGEST_ADDRESS:
            return PlainTextResponse("The address is too long.", 414)
        return None if self._token is None else self._without_token(request, self._token)

    def _without_token(self, request: Request, token: str) -> Response | None:
        asked = request.query_params.get("token")
        if asked is not None and request.url.path == "/" and _same(asked, token):
            # from here on the cookie speaks, so that the token does not stay in the address
            welcome = RedirectResponse("/", 303)
            # lax: the address may have been opened from a mail or a chat, and no question changes anything
            welcome.set_cookie(self._cookie, token, max_age=30 * 86400, httponly=True, samesite="lax")
            return welcome
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        shown = bearer if scheme.lower() == "bearer" else request.cookies.get(self._cookie, "")
        if _same(shown, token):
            return None
        return PlainTextResponse("Open the address that `cellengine watch` printed: it ends in ?token=...", 401)


def _same(shown: str, token: str) -> bool:
    return hmac.compare_digest(shown.encode(), token.encode())


def _host(header: str) -> str:
    """The name in a Host header, without the port and the brackets; empty for what is no such header."""
    found = _HOST.fullmatch(header.lower())
    return found[1].strip("[]") if found else ""
