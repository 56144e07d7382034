"""The live page as a stranger on the network meets it."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from starlette.testclient import TestClient

from cellengine.errors import UsageError
from cellengine.watch.database import FILE
from cellengine.watch.journal import Finished, Journal
from cellengine.watch.openapi import DESCRIPTION
from cellengine.watch.pictures import State
from cellengine.watch.server import MOST_CONNECTIONS, TOKEN_FILE, Address, Server, application
from cellengine.watch.status import Status

SESSION = {"backend": "onnxruntime", "precision": "fp32", "device": "cpu"}
HOSTS = frozenset({"localhost", "127.0.0.1"})
HERE = "http://localhost:8765"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    (folder / "plate").mkdir(parents=True)
    (tmp_path / "secret.overlay.png").write_bytes(b"not for you")
    (folder / "plate" / "a.overlay.png").write_bytes(b"\x89PNG pixels")
    (folder / "plate" / "a.objects.csv").write_text("label,class\n1,live\n")
    return folder


@pytest.fixture
def journal(output: Path) -> Iterator[Journal]:
    with Journal(output) as opened:
        add(opened, "plate/a.tif", ["plate/a.labels.tif", "plate/a.objects.csv", "plate/a.overlay.png"])
        yield opened


def add(journal: Journal, name: str, outputs: list[str]) -> None:
    journal.see([(name, State(1, 1, 0))], settle_s=0)
    entry = journal.next()
    assert entry is not None
    journal.begin(entry, [name.removesuffix(".tif")])
    record = {"outputs": outputs, "source": "/home/someone/a.tif", "objects": 5}
    what = Finished(1_700_000_000.0, 2.5, 0.4, 5, {"live": 3, "dead": 2}, record)
    journal.finish(entry, State(1, 1, 0), [name], what)


@pytest.fixture
def page(journal: Journal, output: Path) -> TestClient:
    return TestClient(application(journal, status(), output, HOSTS, None), HERE, follow_redirects=False)


def status() -> Status:
    return Status(SESSION, "nuclei", "in")


def test_everything_that_is_described_is_answered(page: TestClient) -> None:
    assert page.get("/api/openapi.json").json() == json.loads(json.dumps(DESCRIPTION))
    for path in DESCRIPTION["paths"]:
        answer = page.get(path.replace("{id}", "1"))
        assert answer.status_code == 200, path
    now = page.get("/api/status").json()
    assert now["counts"] == {"waiting": 0, "running": 0, "done": 1, "failed": 0}
    assert now["backend"] == "onnxruntime"
    assert now["latest"]["file"] == "plate/a.tif"


def test_results_have_the_described_fields_and_can_be_paged(page: TestClient, journal: Journal) -> None:
    for i in range(4):
        add(journal, f"{i}.tif", [])
    known = set(DESCRIPTION["components"]["schemas"]["Result"]["properties"])
    seen: list[str] = []
    after = 0
    while batch := (answer := page.get(f"/api/results?after={after}&limit=2").json())["results"]:
        assert all(set(result) == known for result in batch)
        seen += [result["file"] for result in batch]
        after = answer["next"]
    assert seen == ["plate/a.tif", "0.tif", "1.tif", "2.tif", "3.tif"]
    assert answer["next"] == 5


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=0", "limit=100000", "after=" + "9" * 30, "limit=²"])
def test_nonsense_is_refused(page: TestClient, query: str) -> None:
    assert page.get("/api/results?" + query).status_code == 400


def test_the_page_needs_nothing_from_elsewhere(page: TestClient) -> None:
    for path in ("/", "/page.css", "/page.js"):
        answer = page.get(path)
        assert answer.status_code == 200
        text = answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    html = page.get("/").text
    assert "style=" not in html, "the policy would block it"
    assert "onclick" not in html


def test_a_result_does_not_tell_where_files_lie(page: TestClient) -> None:
    text = page.get("/api/results/1").text
    assert "/home/someone" not in text
    assert page.get("/api/results/1").json()["classes"] == {"live": 3, "dead": 2}
    assert page.get("/api/results/1/overlay.png").content.startswith(b"\x89PNG")
    assert page.get("/api/results/1/objects.csv").text.startswith("label,class")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.overlay.png",
        "/..%2f..%2fetc/passwd",
        "/api/results/../../secret.overlay.png",
        "/api/results/..%2f..%2fsecret/overlay.png",
        "/api/results/-1/overlay.png",
        "/api/results/1/../../../../etc/passwd",
        "/api/results/99/overlay.png",
        f"/{FILE}",
        "/static/page.js",
        "/page.css/..%2f" + FILE,
    ],
)
def test_no_path_leads_out(page: TestClient, path: str) -> None:
    answer = page.get(path)
    assert answer.status_code == 404
    assert b"not for you" not in answer.content


def test_even_a_journal_that_names_a_file_outside_gives_none(page: TestClient, journal: Journal) -> None:
    add(journal, "evil.tif", ["../secret.overlay.png"])
    number = page.get("/api/latest").json()["results"][0]["id"]
    assert page.get(f"/api/results/{number}/overlay.png").status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "localhost:8765.evil.example", "", "[::1"])
def test_strange_hosts_are_refused(page: TestClient, host: str) -> None:
    assert page.get("/api/status", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:8765", "LOCALHOST:8765"])
def test_own_names_are_taken(page: TestClient, host: str) -> None:
    assert page.get("/api/status", headers={"Host": host}).status_code == 200


def test_only_short_questions_without_a_body(page: TestClient) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert page.request(method, "/api/results").status_code == 405
    assert page.request("GET", "/api/status", content=b"x").status_code == 413
    assert page.get("/api/results?after=" + "1" * 5000).status_code == 414


def test_a_token_is_asked_for(journal: Journal, output: Path) -> None:
    page = TestClient(application(journal, status(), output, HOSTS, "secret"), HERE, follow_redirects=False)
    for path in ("/", "/api/status", "/page.js", "/api/results/1/overlay.png", "/nowhere"):
        assert page.get(path).status_code == 401
    assert page.get("/?token=wrong").status_code == 401
    assert page.get("/api/status?token=secret").status_code == 401, "tokens in addresses end up in logs"
    assert page.get("/api/status", headers={"Authorization": "Bearer secret"}).status_code == 200
    assert page.get("/api/status", headers={"Authorization": "Bearer é".encode("latin-1")}).status_code == 401
    welcome = page.get("/?token=secret")
    assert (welcome.status_code, welcome.headers["location"]) == (303, "/")
    assert "HttpOnly" in welcome.headers["set-cookie"]
    assert page.get("/api/status").status_code == 200, "the cookie speaks now"


def test_the_pages_of_two_watchers_on_one_machine_keep_their_visitors(journal: Journal, output: Path) -> None:
    """A browser sends the cookies of a host to all its ports."""
    apps = [application(journal, status(), output, HOSTS, token) for token in ("first", "second")]
    cookies: dict[str, str] = {}
    for app, token in zip(apps, ("first", "second"), strict=True):
        page = TestClient(app, HERE, follow_redirects=False)
        page.get(f"/?token={token}")
        cookies |= dict(page.cookies)
    for app in apps:
        assert TestClient(app, HERE, cookies=cookies).get("/api/status").status_code == 200


@pytest.mark.parametrize("number", ["9" * 19, "9" * 40])
def test_numbers_beyond_all_results_are_none(page: TestClient, number: str) -> None:
    for end in ("", "/overlay.png"):
        assert page.get(f"/api/results/{number}{end}").status_code == 404


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("lab7", False)]
)
def test_loopback(host: str, loopback: bool) -> None:
    assert Address(host).is_loopback is loopback


def ask(port: int, path: str, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_on_a_real_socket(journal: Journal, output: Path) -> None:
    with Server(Address("127.0.0.1", 0), journal, status(), output) as server:
        port = int(server.url.rstrip("/").rpartition(":")[2])
        assert ask(port, "/api/status")[0] == 200
        assert ask(port, "/api/status", Host="evil.example")[0] == 421
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000)
            assert b" 400 " in raw.recv(100), "endless headers are cut off"
        with pytest.raises(UsageError, match="choose another --port"):
            Server(Address("127.0.0.1", port), journal, status(), output)


def test_bound_elsewhere_the_address_carries_a_token_that_only_the_owner_can_read(
    journal: Journal, output: Path
) -> None:
    with Server(Address("0.0.0.0", 0), journal, status(), output) as server:
        address, _, token = server.url.partition("?token=")
        port = int(address.rstrip("/").rpartition(":")[2])
        assert len(token) >= 24
        assert (output / ".watch.token").stat().st_mode & 0o077 == 0
        assert ask(port, "/api/status")[0] == 401
        assert ask(port, "/api/status", Authorization=f"Bearer {token}")[0] == 200
    with Server(Address("0.0.0.0", 0), journal, status(), output) as server:
        assert server.url.endswith(token), "bookmarks stay good"
        assert "0.0.0.0" not in server.url, "that is no address that a visitor could use"


@pytest.mark.parametrize("kept", ["", "\n", "short", "é" * 40])
def test_a_token_file_that_a_crash_left_without_a_token_opens_nothing(
    journal: Journal, output: Path, kept: str
) -> None:
    (output / TOKEN_FILE).write_text(kept, encoding="utf-8")
    with Server(Address("0.0.0.0", 0), journal, status(), output) as server:
        address, _, token = server.url.partition("?token=")
        port = int(address.rstrip("/").rpartition(":")[2])
        assert len(token) >= 32
        assert ask(port, "/api/status")[0] == 401
        assert ask(port, "/api/status", Authorization="Bearer ")[0] == 401
        assert (output / TOKEN_FILE).stat().st_mode & 0o077 == 0


def test_a_visitor_may_use_every_address_of_the_machine(journal: Journal, output: Path) -> None:
    with Server(Address("0.0.0.0", 0), journal, status(), output) as server:
        port = int(server.url.partition("?")[0].rstrip("/").rpartition(":")[2])
        for found in (one.address for card in psutil.net_if_addrs().values() for one in card):
            shown = f"[{found}]" if ":" in found else found
            if "%" not in found and found.count(":") != 5:
                assert ask(port, "/api/status", Host=f"{shown}:{port}")[0] == 401, "asked for a token, not refused"


def test_connections_without_end_leave_the_watcher_its_files(journal: Journal, output: Path) -> None:
    process = psutil.Process()
    with Server(Address("127.0.0.1", 0), journal, status(), output) as server, ExitStack() as held:
        port = int(server.url.rstrip("/").rpartition(":")[2])
        assert _answers(port)
        before = process.num_fds()
        idle = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(2 * MOST_CONNECTIONS)]
        for one in idle:
            held.callback(one.close)
        refused = [one for one in idle[MOST_CONNECTIONS:] if _closed(one)]
        assert len(refused) == MOST_CONNECTIONS
        assert process.num_fds() - before <= len(idle) + MOST_CONNECTIONS + 8
        for one in idle:
            one.close()
        wait_until(lambda: _answers(port))


def _closed(one: socket.socket) -> bool:
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True


def _answers(port: int) -> bool:
    try:
        return ask(port, "/api/status")[0] == 200
    except OSError:
        return False


def wait_until(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)
