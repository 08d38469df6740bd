"""Who a client certificate stands for: a table from the names in certificates to grants.

TLS has verified the certificate against the client CA; what is left is to find its name in the table, and to see that
it has not ended since: a connection may outlive it.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from failover_orch.domain import Grant, Principal
from failover_orch.errors import Unauthenticated
from failover_orch.service.access.protocol import BY_CERTIFICATE

__all__ = ["Certificates", "names_in"]


class Certificates:
    """Grants by the name of a certificate, case aside."""

    def __init__(self, grants: Mapping[str, tuple[Grant, ...]]) -> None:
        self._principals = {name.lower(): Principal(name, found, BY_CERTIFICATE) for name, found in grants.items()}

    def principal(self, certificate: Mapping[str, Any], now_ms: int) -> Principal:
        """Whom a certificate, in the form of `ssl.SSLSocket.getpeercert`, stands for.

        Raises:
            Unauthenticated: it has ended, or none of its names is listed, or more than one.

        """
        if now_ms >= 1000 * _seconds(certificate.get("notAfter", "Jan  1 00:00:00 1970 GMT")):
            raise Unauthenticated("the client certificate has expired")
        names = names_in(certificate)
        found = {name: self._principals[name] for name in names if name in self._principals}
        if not found:
            raise Unauthenticated(f"no name of the client certificate is listed: {', '.join(names) or 'it has none'}")
        if len(found) > 1:
            raise Unauthenticated(f"the client certificate has several names that are listed: {', '.join(found)}")
        return next(iter(found.values()))


def names_in(certificate: Mapping[str, Any]) -> tuple[str, ...]:
    """The names in a certificate, in lower case: its DNS names or, where it has none, its common name."""
    names = [value.lower() for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    if not names:
        subject = certificate.get("subject", ())
        names = [value.lower() for part in subject for key, value in part if key == "commonName"]
    return tuple(dict.fromkeys(names))


@lru_cache(maxsize=1024)
def _seconds(written: str) -> int:
    return ssl.cert_time_to_seconds(written)
