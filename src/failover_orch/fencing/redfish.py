"""Power by way of a management controller that speaks Redfish (DMTF DSP0266), over HTTPS.

The names are those of the DMTF's schemas: ServiceRoot, ComputerSystemCollection, ComputerSystem with its action
`#ComputerSystem.Reset`, and Session.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any
from urllib.parse import urlsplit

import httpx

from failover_orch.errors import ConfigError, FenceFailed, FenceRefused
from failover_orch.fencing.model import PowerReading, Target
from failover_orch.fencing.settings import Login, RedfishFence
from failover_orch.secret_files import read_secret

__all__ = ["RedfishSwitch"]

_CALL_S = 8.0
_LARGEST = 1024 * 1024
"""Bytes of an answer."""
_ROOT = "/redfish/v1"
_SYSTEMS = f"{_ROOT}/Systems"
_SESSIONS = f"{_ROOT}/SessionService/Sessions"
_RESET = "#ComputerSystem.Reset"
_FORCE_OFF = "ForceOff"
_ALLOWED = "ResetType@Redfish.AllowableValues"
_LINK = "@odata.id"
_READINGS = {
    "On": PowerReading.ON,
    "Off": PowerReading.OFF,
    # On its way is not there: what turns off may hang, with the machine still at work.
    "PoweringOn": PowerReading.ON,
    "PoweringOff": PowerReading.ON,
    "Paused": PowerReading.ON,
}

_Json = dict[str, Any]


class RedfishSwitch:
    """A node's ComputerSystem. Logs in when it is first asked, and out by `let_go`."""

    def __init__(self, settings: RedfishFence) -> None:
        self._settings = settings
        self._client: httpx.AsyncClient | None = None
        self._session = ""
        """Where the session stands that is to be deleted at the end."""
        self._system = ""

    @property
    def source(self) -> str:
        return f"BMC {urlsplit(self._settings.url).netloc}"

    def subject(self, target: Target) -> str:
        return target.machine

    async def read(self, target: Target) -> PowerReading:
        system = await self._computer_system()
        said = system.get("PowerState")
        if said not in _READINGS:
            raise FenceFailed(f"{self.source} does not say whether {target.machine} is on: its PowerState is {said!r}")
        return _READINGS[said]

    async def turn_off(self, target: Target) -> None:
        system = await self._computer_system()
        actions = system.get("Actions")
        action = actions.get(_RESET) if isinstance(actions, dict) else None
        path = action.get("target") if isinstance(action, dict) else None
        if not isinstance(action, dict) or not isinstance(path, str) or not _is_path(path):
            raise FenceRefused(f"{self.source} offers no {_RESET} for {target.machine}: it cannot be turned off by it")
        allowed = action.get(_ALLOWED)
        if isinstance(allowed, list) and _FORCE_OFF not in allowed:
            raise FenceRefused(f"{self.source} offers no {_FORCE_OFF} for {target.machine}, only {allowed}")
        await self._call("POST", path, {"ResetType": _FORCE_OFF})

    async def let_go(self) -> None:
        client, session = self._client, self._session
        self._client, self._session, self._system = None, "", ""
        if client is None:
            return
        try:
            if session:
                # Controllers have few sessions, and keep those that nobody ends for half an hour.
                await client.delete(session)
        except httpx.HTTPError:
            pass
        finally:
            await client.aclose()

    async def _computer_system(self) -> _Json:
        if not self._system:
            self._system = await self._find_system()
        return await self._call("GET", self._system)

    async def _find_system(self) -> str:
        members = (await self._call("GET", _SYSTEMS)).get("Members")
        paths = [str(member.get(_LINK)) for member in members or () if isinstance(member, dict)]
        found = {path.rstrip("/").rpartition("/")[2]: path for path in paths if _is_path(path)}
        wanted = self._settings.system or (next(iter(found)) if len(found) == 1 else "")
        if wanted not in found:
            has = ", ".join(sorted(found)) or "none"
            said = (
                f"has no system {wanted!r}" if wanted else "has more than one system: say in the fence which is meant"
            )
            raise FenceRefused(f"{self.source} {said if found else 'has no systems'}; there are: {has}")
        return found[wanted]

    async def _call(self, method: str, path: str, body: _Json | None = None) -> _Json:
        client = self._client or await self._log_in()
        answer = await self._send(client, method, path, body)
        if answer.status_code == httpx.codes.UNAUTHORIZED and self._session:
            # It was let in before: the controller has ended the session, or has restarted.
            self._session = ""
            await self.let_go()
            raise FenceFailed(f"{self.source} has ended the session")
        return self._understood(answer, f"{method} {path}")

    async def _log_in(self) -> httpx.AsyncClient:
        settings = self._settings
        try:
            password = read_secret(settings.password_file)
        except ConfigError as error:
            raise FenceRefused(str(error)) from None
        basic = httpx.BasicAuth(settings.user, password) if settings.login is Login.BASIC else None
        client = httpx.AsyncClient(base_url=settings.url, auth=basic, verify=self._trust(), timeout=_CALL_S)
        self._client = client
        if settings.login is Login.BASIC:
            return client
        try:
            answer = await self._send(client, "POST", _SESSIONS, {"UserName": settings.user, "Password": password})
            self._understood(answer, f"POST {_SESSIONS}")
            client.headers["X-Auth-Token"] = answer.headers["X-Auth-Token"]
        except KeyError:
            await self.let_go()
            raise FenceFailed(f"{self.source} opened a session without an X-Auth-Token") from None
        except (FenceFailed, FenceRefused):
            await self.let_go()
            raise
        self._session = urlsplit(answer.headers.get("Location", "")).path
        return client

    def _trust(self) -> ssl.SSLContext:
        ca_file = self._settings.ca_file
        try:
            return ssl.create_default_context(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise FenceRefused(f"the certificates in {ca_file} cannot be read: {error}") from None

    async def _send(self, client: httpx.AsyncClient, method: str, path: str, body: _Json | None) -> httpx.Response:
        try:
            async with client.stream(method, path, json=body, headers={"Accept-Encoding": "identity"}) as answer:
                content = await self._content(answer, f"{method} {path}")
            return httpx.Response(answer.status_code, headers=_unpacked(answer.headers), content=content)
        except (TimeoutError, httpx.TimeoutException):
            raise FenceFailed(f"{self.source} did not answer {method} {path} within {_CALL_S:g} s") from None
        except httpx.HTTPError as error:
            if reason := _not_trusted(error):
                raise FenceRefused(f"the certificate of {self.source} is not trusted: {reason}") from None
            raise FenceFailed(f"{self.source} does not answer: {error or type(error).__name__}") from None

    async def _content(self, answer: httpx.Response, what: str) -> bytes:
        """An answer's body as it came, and no more than there can be: what is packed may unpack to any size."""
        content = b""
        async with asyncio.timeout(_CALL_S):
            async for part in answer.aiter_raw():
                content += part
                if len(content) > _LARGEST:
                    raise FenceFailed(f"{self.source} gives more than {_LARGEST} bytes to {what}")
        return content

    def _understood(self, answer: httpx.Response, what: str) -> _Json:
        settings = self._settings
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise FenceRefused(
                f"{self.source} refuses {settings.user} ({answer.status_code} to {what}): see the user's rights and "
                f"{settings.password_file}"
            )
        if not answer.is_success:
            raise FenceFailed(f"{self.source} answered {answer.status_code} to {what}")
        if not answer.content:
            return {}
        try:
            said = answer.json()
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise FenceFailed(f"{self.source} answered {what} with something that is no JSON object")
        return said


def _unpacked(headers: httpx.Headers) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() != "content-encoding"}


def _is_path(text: str) -> bool:
    """Whether a link stays with the controller that gave it: the token must not follow it elsewhere."""
    return text.startswith("/") and not text.startswith("//")


def _not_trusted(error: BaseException | None) -> str:
    """Why a certificate was refused, if that is what stands behind an error."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message or str(error)
        error = error.__cause__ or error.__context__
    return ""
