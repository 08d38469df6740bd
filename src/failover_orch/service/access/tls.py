"""TLS of the service: certificates that are taken up anew when their files change, and the client's, for the gate."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from failover_orch import telemetry
from failover_orch.errors import ConfigError
from failover_orch.service.access.protocol import CLIENT_CERTIFICATE, TLS_EXTENSION

__all__ = ["CertificateProtocol", "TlsFiles", "server_context"]

log = telemetry.logger(__name__)

_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The server's certificate, with its chain, and key; and what signs client certificates, where they are taken."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class CertificateProtocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it, with the client's certificate, where one came, in the scope of each call.

    TLS has verified it by then. Uvicorn itself keeps it to itself.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        certificate = transport.get_extra_info("peercert")
        self._extensions = {TLS_EXTENSION: {CLIENT_CERTIFICATE: certificate}} if certificate else None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._extensions is not None:
            self.scope["extensions"] = self._extensions  # type: ignore[typeddict-item]


class _RenewingContext(ssl.SSLContext):
    """A context that hands each new connection to one made of the files as they are then.

    Servers keep the context they were given for good; a certificate that is renewed every few weeks must not need a
    restart. Files that cannot be used are logged, and the last good ones stay.
    """

    _files: TlsFiles
    _inner: ssl.SSLContext
    _seen: tuple[object, ...]
    _looked_at: float

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        if time.monotonic() - self._looked_at >= _LOOK_EVERY_S:
            self._look()
        return self._inner.wrap_bio(*arguments, **options)

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        try:
            seen = _state_of(self._files)
            if seen == self._seen:
                return
            self._inner = _context(self._files)
        except (OSError, ConfigError) as error:
            log.error("TLS files have changed and cannot be used; the last good ones stay", error=error)
            return
        self._seen = seen
        log.info("TLS files are taken up anew", certificate=str(self._files.certificate))


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """A context for the server, which follows its files. Client certificates are asked for, and may be left out.

    Raises:
        ConfigError: a file is missing, no certificate or key, or the key is not that of the certificate.

    """
    inner = _context(files)
    context = _RenewingContext(ssl.PROTOCOL_TLS_SERVER)
    context._files, context._inner = files, inner  # noqa: SLF001 (made here, and nowhere else)
    context._seen, context._looked_at = _state_of(files), time.monotonic()  # noqa: SLF001 (as above)
    return context


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the certificate {files.certificate} with the key {files.key} cannot be used: {error.strerror or error}"
        ) from None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(cafile=files.client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the client CA {files.client_ca} cannot be used: {error.strerror or error}; expected certificates "
                "in PEM form"
            ) from None
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _state_of(files: TlsFiles) -> tuple[object, ...]:
    paths = [path for path in (files.certificate, files.key, files.client_ca) if path is not None]
    return tuple((status.st_ino, status.st_size, status.st_mtime_ns) for status in (path.stat() for path in paths))
