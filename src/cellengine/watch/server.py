"""The live page and its data, for people and for other programs: a small web server that only answers questions."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from sqlite3 import Row
from types import TracebackType
from typing import Any, Self

import psutil
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from cellengine.errors import UsageError
from cellengine.io.sink import partial_name, remove, writing
from cellengine.watch import overview
from cellengine.watch.database import Database
from cellengine.watch.guard import guard
from cellengine.watch.openapi import DESCRIPTION
from cellengine.watch.status import Status

MOST_RESULTS = 1000
LARGEST_NUMBER = 1 << 63
"""that the journal can be asked for"""
HISTORY_BINS = 120
HISTORY_EVERY_S = 5.0
TOKEN_FILE = ".watch.token"
MOST_CONNECTIONS = 64
"""at once; further ones are closed, so that no visitor can use up the files that the watcher may open"""
_EVERYWHERE = ("0.0.0.0", "::")
PAGE_FILES = {
    "": ("index.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the page is offered."""

    host: str = "127.0.0.1"
    """a name or number of this machine; anything but the loopback asks visitors for a token"""
    port: int = 8765
    """0 takes a free one"""

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def application(journal: Database, status: Status, output: Path, hosts: frozenset[str], token: str | None) -> Starlette:
    """The answers, without a network. `hosts`: names by which the page may be called; `token`: what a visitor must
    show, in the address once, then as a cookie or as `Authorization: Bearer`; None lets everyone in.
    """
    return Starlette(routes=_routes(_Answers(journal, status, output.resolve())), middleware=[guard(hosts, token)])


class _Connection(H11Protocol):
    """One of a bounded number of connections; one that asks nothing is closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol.connection_made`."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )


class Server:
    """The application on a socket, in a thread of its own; use it in a `with` statement."""

    def __init__(self, address: Address, journal: Database, status: Status, output: Path) -> None:
        token = None if address.is_loopback else _token(output / TOKEN_FILE)
        self._socket = _listen(address)
        port = self._socket.getsockname()[1]
        host = socket.gethostname() if address.host in _EVERYWHERE else address.host
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
        app = application(journal, status, output, _names(address), token)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            http=_Connection,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=16 << 10,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="page", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((address.host, address.port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise UsageError(
            f"The page cannot be offered at {address.host}:{address.port} ({error.strerror}): choose another --port."
        ) from error
    return listening


def _token(path: Path) -> str:
    """The token of this output; it is made once, so that bookmarks stay good, and only the owner can read it."""
    kept = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    if re.fullmatch(r"[A-Za-z0-9_-]{32,}", kept):
        return kept
    token, partial = secrets.token_urlsafe(24), partial_name(path)
    with writing(path):
        remove(partial)
        partial.touch(mode=0o600, exist_ok=False)
        partial.write_text(token + "\n", encoding="ascii")
        partial.replace(path)
    return token


def _names(address: Address) -> frozenset[str]:
    """What a visitor may call this machine. Others are refused: a page from elsewhere must not get here by a trick of
    its own name server."""
    names = {"localhost", "127.0.0.1", "::1", address.host.lower()}
    if not address.is_loopback:
        own = socket.gethostname().lower()
        first = own.partition(".")[0]
        names |= {own, first, f"{first}.local", socket.getfqdn().lower()}
        names |= {one.address.partition("%")[0].lower() for found in psutil.net_if_addrs().values() for one in found}
    return frozenset(names)


class _Answers:
    """One method a question. Handlers that ask the journal are plain functions, which starlette runs in threads."""

    def __init__(self, journal: Database, status: Status, output: Path) -> None:
        self._journal, self._status, self._output = journal, status, output
        self._history: tuple[float, list[dict[str, Any]]] = (-1e9, [])
        self._files = {name: resources.files("cellengine.watch") / "static" / name for name, _ in PAGE_FILES.values()}

    def page(self, request: Request) -> Response:
        """The page itself, its style and its program."""
        name, kind = PAGE_FILES[request.url.path.lstrip("/")]
        return Response(self._files[name].read_bytes(), media_type=kind)

    def openapi(self, request: Request) -> Response:
        return JSONResponse(DESCRIPTION)

    def status(self, request: Request) -> Response:
        answer = self._status.now() | {"counts": overview.counts(self._journal)}
        latest = overview.latest(self._journal)
        answer["latest"] = _result(latest[0]) if latest else None
        return JSONResponse(answer)

    def results(self, request: Request) -> Response:
        after, limit = _number(request, "after", 0), _number(request, "limit", 100)
        if after is None or limit is None or not 1 <= limit <= MOST_RESULTS:
            return _refuse(400, f"after and limit are whole numbers, limit from 1 to {MOST_RESULTS}")
        rows = overview.results(self._journal, after, limit)
        return JSONResponse(
            {"results": [_result(row) for row in rows], "next": rows[-1]["sequence"] if rows else after}
        )

    def latest(self, request: Request) -> Response:
        return JSONResponse({"results": [_result(row) for row in overview.latest(self._journal, 30)]})

    def result(self, request: Request) -> Response:
        found = self._found(request)
        if found is None:
            return _refuse(404, "there is no such result")
        row, record, classes = found
        return JSONResponse(_result(row) | {"classes": classes, "record": _public(record)})

    def file(self, request: Request) -> Response:
        """A file of a result, by its kind: the name never comes from the visitor."""
        found = self._found(request)
        ending = {"overlay": ".overlay.png", "objects": ".objects.csv"}[request.path_params["what"]]
        name = next((n for n in found[1]["outputs"] if n.endswith(ending)), None) if found else None
        path = None if name is None else (self._output / name).resolve()
        if path is None or not path.is_relative_to(self._output) or not path.is_file():
            return _refuse(404, "there is no such file")
        return FileResponse(path, headers={"Cache-Control": "private, max-age=60"})

    def _found(self, request: Request) -> tuple[Row, dict[str, Any], dict[str, int]] | None:
        number: int = request.path_params["number"]
        return overview.result(self._journal, number) if number < LARGEST_NUMBER else None

    def history(self, request: Request) -> Response:
        now = time.monotonic()
        if now - self._history[0] > HISTORY_EVERY_S:
            self._history = (now, overview.history(self._journal, HISTORY_BINS))
        return JSONResponse({"history": self._history[1], "objects": overview.objects(self._journal)})

    def failures(self, request: Request) -> Response:
        keys = ("name", "kind", "failures", "note", "finished")
        return JSONResponse({"failures": [{k: row[k] for k in keys} for row in overview.troubles(self._journal)]})


def _routes(answers: _Answers) -> list[Route]:
    get = ["GET"]
    pages = [Route("/" + path, answers.page, methods=get) for path in PAGE_FILES]
    return [
        *pages,
        Route("/api/status", answers.status, methods=get),
        Route("/api/results", answers.results, methods=get),
        Route("/api/latest", answers.latest, methods=get),
        Route("/api/results/{number:int}", answers.result, methods=get),
        Route("/api/results/{number:int}/overlay.png", _as(answers.file, "overlay"), methods=get),
        Route("/api/results/{number:int}/objects.csv", _as(answers.file, "objects"), methods=get),
        Route("/api/history", answers.history, methods=get),
        Route("/api/failures", answers.failures, methods=get),
        Route("/api/openapi.json", answers.openapi, methods=get),
    ]


def _as(handler: Callable[[Request], Response], what: str) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        request.path_params["what"] = what
        return handler(request)

    return answer


def _number(request: Request, name: str, default: int) -> int | None:
    text = request.query_params.get(name, str(default))
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _result(row: Row) -> dict[str, Any]:
    number = row["id"]
    return {
        "number": row["sequence"],
        "id": number,
        "file": row["name"],
        "objects": row["objects"],
        "finished": row["finished"],
        "seconds": row["seconds"],
        "latency_s": row["latency_s"],
        "results": row["stem"],
        "overlay": f"/api/results/{number}/overlay.png",
        "table": f"/api/results/{number}/objects.csv",
    }


def _public(record: dict[str, Any]) -> dict[str, Any]:
    """A record without where things lie on this machine."""
    return {key: value for key, value in record.items() if key != "source"}


def _refuse(code: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status_code=code)
