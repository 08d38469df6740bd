"""A little OpenID Connect provider on the loopback address, with keys of its own, that the tests command."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

__all__ = ["AUDIENCE", "Provider", "Signer", "provider", "signer"]

AUDIENCE = "failover-orch"
_JWK: Mapping[str, Any] = {
    "RS256": jwt.algorithms.RSAAlgorithm,
    "ES256": jwt.algorithms.ECAlgorithm,
    "EdDSA": jwt.algorithms.OKPAlgorithm,
}


class Signer:
    """A private key with its id."""

    def __init__(self, algorithm: str, key_id: str, key: Any) -> None:
        self.algorithm = algorithm
        self.key_id = key_id
        self.key = key

    @property
    def published(self) -> dict[str, Any]:
        """The public key, as the provider publishes it."""
        written: dict[str, Any] = _JWK[self.algorithm].to_jwk(self.key.public_key(), as_dict=True)
        return {**written, "kid": self.key_id, "use": "sig", "alg": self.algorithm}

    def token(self, claims: Mapping[str, Any], **headers: Any) -> str:
        headers = {name: value for name, value in {"kid": self.key_id, **headers}.items() if value is not None}
        return jwt.encode(dict(claims), self.key, self.algorithm, headers=headers)


def signer(algorithm: str, key_id: str = "key-1", *, bits: int = 2048) -> Signer:
    keys: Mapping[str, Any] = {
        "RS256": lambda: rsa.generate_private_key(65_537, bits),
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }
    return Signer(algorithm, key_id, keys[algorithm]())


class Provider:
    """What it answers, and how often it was asked for its keys."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.named = issuer
        """The issuer that its discovery document is of."""
        self.keys: list[dict[str, Any]] = []
        self.away = False
        self.padding = 0
        """Bytes that the key set is longer than it had to be."""
        self.asked = 0

    def claims(self, **changed: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "alice",
            "iat": now,
            "exp": now + 300,
            "groups": ["dr-operators"],
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def answer(self, path: str) -> tuple[int, bytes]:
        if self.away:
            return 503, b"{}"
        if path == "/.well-known/openid-configuration":
            return 200, orjson.dumps({"issuer": self.named, "jwks_uri": f"{self.issuer}/keys"})
        if path == "/keys":
            self.asked += 1
            return 200, orjson.dumps({"keys": self.keys, "padding": "x" * self.padding})
        return 404, b"{}"


@contextmanager
def provider(*signers: Signer) -> Iterator[Provider]:
    """A provider that publishes the keys of `signers`, until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = found.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: the tests have logs of their own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Provider(f"http://127.0.0.1:{server.server_address[1]}")
    found.keys = [each.published for each in signers]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
