"""Known vulnerabilities: what pip-audit says, by a stand-in for OSV on this machine, and what comes of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from supply_chain.vulnerabilities import Audit, LetBe, Vulnerability, audit, findings, understood

TODAY = date(2026, 11, 23)
FOUND = Vulnerability("h11", "0.14.0", ("CVE-2025-43859", "GHSA-vqfr-h8mv-ghfj"), ("0.16.0",))
SENTENCE = "h11 0.14.0 has CVE-2025-43859 = GHSA-vqfr-h8mv-ghfj: update to 0.16.0, or name it in LET_BE with why"


class Osv(BaseHTTPRequestHandler):
    """OSV's interface, with one advisory; counts what it is asked."""

    asked = 0

    def do_POST(self) -> None:
        type(self).asked += 1
        package = json.loads(self.rfile.read(int(self.headers["content-length"])))
        advisory = {
            "id": FOUND.names[0],
            "aliases": [FOUND.names[1]],
            "summary": "a body is taken for the next request",
            "affected": [
                {
                    "package": {"name": "h11", "ecosystem": "PyPI"},
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "0.16.0"}]}],
                }
            ],
        }
        vulnerable = package["package"]["name"] == "h11" and package["version"] == "0.14.0"
        body = json.dumps({"vulns": [advisory]} if vulnerable else {}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Not on the console."""


@pytest.fixture
def osv() -> Iterator[str]:
    Osv.asked = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


def locked(tmp_path: Path, *pins: str) -> Path:
    lock = tmp_path / "some.lock"
    lock.write_text("".join(f"{pin} --hash=sha256:{'0' * 64}\n" for pin in pins))
    return lock


def test_a_known_vulnerability_is_found_and_kept_for_a_day(tmp_path: Path, osv: str) -> None:
    lock = locked(tmp_path, "h11==0.14.0", "idna==3.20")
    told = audit([lock], tmp_path / "cache", osv_url=osv)
    assert told == Audit((FOUND,), asked=2)
    assert list(findings(told.found, TODAY)) == [SENTENCE]
    asked = Osv.asked
    assert audit([lock], tmp_path / "cache", osv_url=osv) == told
    assert Osv.asked == asked
    # Another lock, another question.
    assert audit([locked(tmp_path, "h11==0.16.0")], tmp_path / "cache", osv_url=osv) == Audit(asked=1)
    assert Osv.asked == asked + 1


def test_a_registry_out_of_reach_is_said_and_is_no_finding(tmp_path: Path) -> None:
    told = audit([locked(tmp_path, "h11==0.14.0")], tmp_path / "cache", osv_url="http://127.0.0.1:9/v1/query")
    assert not told.answered
    assert told.why
    assert list(findings(told.found, TODAY)) == []
    assert not (tmp_path / "cache").exists()


def test_a_mirror_without_advisories_says_nothing() -> None:
    told = understood('{"dependencies": [{"name": "h11", "skip_reason": "not found"}], "fixes": []}')
    assert told == Audit(asked=1, unknown=("h11",))
    assert not told.answered


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"dependencies": [{"version": "1"}]}'])
def test_an_answer_that_makes_no_sense_is_said(text: str) -> None:
    assert "cannot be understood" in understood(text).why


@pytest.mark.parametrize(
    ("name", "let_be", "found"),
    [
        ("GHSA-vqfr-h8mv-ghfj", LetBe("h11", "uvicorn uses httptools", date(2026, 11, 23)), ""),
        ("CVE-2025-43859", LetBe("h11", "uvicorn uses httptools", date(2027, 1, 1)), ""),
        ("CVE-2025-43859", LetBe("h2", "another package", date(2027, 1, 1)), SENTENCE),
        ("CVE-2025-0000", LetBe("h11", "another advisory", date(2027, 1, 1)), SENTENCE),
        (
            "CVE-2025-43859",
            LetBe("h11", "for a while", date(2026, 11, 22)),
            "CVE-2025-43859 of h11 was let be until 2026-11-22: look again; update to 0.16.0",
        ),
    ],
)
def test_what_is_let_be_is_so_until_its_day(name: str, let_be: LetBe, found: str) -> None:
    assert " ".join(findings([FOUND], TODAY, {name: let_be})) == found
