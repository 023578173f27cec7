"""
Registry authentication: credentials from ``config.json``, and bearer tokens obtained with them.

OCI distribution spec and Docker's token specification ("Token Authentication", "OAuth2"). Of the credentials, errors
and logs contain only the user name. The cause of an error is dropped if it may contain a secret.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit
from urllib.request import parse_http_list

from .. import docker_sdk
from ..errors import RegistryDenied
from ..model.policy import reference

_PARAMETER = re.compile(r'\s*([A-Za-z0-9_-]+)\s*=\s*"?((?:[^"\\]|\\.)*)"?\s*')

# sends a request to the token server: method, URL, headers, body → response body
TokenRequest = Callable[[str, str, dict[str, str], bytes | None], bytes]


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of one host in ``config.json`` or a credential helper; empty if there are none."""

    #: The user name.
    user: str = ""
    #: The password.
    password: str = field(default="", repr=False)
    #: The OAuth2 refresh token; preferred over the password.
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> dict[str, str]:
        """The header of basic authentication; empty if there is no password."""
        if not self.password:
            return {}
        encoded = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {encoded}"}

    @property
    def account(self) -> str:
        """The account, for error messages."""
        if self.identity_token:
            return "with the identity token of config.json"
        return f"as {self.user!r}" if self.password else "without credentials: config.json has none for this host"


def credentials(host: str) -> Credentials:
    """
    Return the credentials of a host (``auths``, ``credHelpers``, ``credsStore``).

    Raises:
        RegistryDenied: ``config.json`` is malformed, or the credential helper failed.
    """
    try:
        known = docker_sdk.package().auth.load_config()
        fields = known.resolve_authconfig(host) or {}
    except docker_sdk.package().errors.DockerException:
        raise RegistryDenied(f"config.json, or its credential helper, failed for {host}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise RegistryDenied(f"config.json cannot be read: its entry for {host} or another is malformed") from None
    lower = {str(key).lower(): str(value or "") for key, value in fields.items()}
    return Credentials(lower.get("username", ""), lower.get("password", ""), lower.get("identitytoken", ""))


def authorization(challenge: str, login: Credentials, plain: bool, host: str, request: TokenRequest) -> str:
    """
    Return the ``Authorization`` header that answers a challenge.

    Args:
        challenge: The ``WWW-Authenticate`` header.
        login: The credentials for ``host``.
        plain: True to allow a token server without TLS.
        host: The registry, for messages.
        request: Sends a request to the token server.

    Raises:
        RegistryDenied: There are no credentials, the scheme is unknown, or the answer would expose a secret.
    """
    kind, _, rest = challenge.partition(" ")
    if kind.lower() == "basic":
        if not login.basic:
            raise RegistryDenied(
                f"{host} requires a user name and a password, and none is known for it; tried {login.account}"
            )
        return login.basic["Authorization"]
    parameters = _parameters(rest) if kind.lower() == "bearer" else {}
    realm = parameters.pop("realm", "")
    if not re.match(r"https?://" if plain else "https://", realm):
        raise RegistryDenied(f"{host} asks for {kind[:40]!r} authentication in an unsafe or unknown way")
    if realm.startswith("http://") and (login.password or login.identity_token) and not _is_same_machine(realm, host):
        raise RegistryDenied(
            f"{host} names a token server without TLS on another host, {urlsplit(realm).netloc}: credentials are not "
            "sent there",
            "configure the registry to name a token server with https://, or remove this host from config.json",
        )
    query = {key: value for key, value in parameters.items() if key in ("service", "scope")}
    if login.identity_token:
        form = {"grant_type": "refresh_token", "client_id": "baseimg", "refresh_token": login.identity_token, **query}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return _bearer(request("POST", realm, headers, urlencode(form).encode()), host)
    if login.password:
        query["account"] = login.user
    return _bearer(request("GET", realm + ("&" if "?" in realm else "?") + urlencode(query), login.basic, None), host)


def _is_same_machine(realm: str, host: str) -> bool:
    """True if plain HTTP to ``realm`` exposes credentials to no other machine than the registry ``host``."""
    token_server = urlsplit(realm).netloc.rpartition("@")[2]
    return reference.is_loopback(token_server) or urlsplit(realm).hostname == urlsplit(f"//{host}").hostname


def _parameters(text: str) -> dict[str, str]:
    matches = filter(None, map(_PARAMETER.fullmatch, parse_http_list(text)))
    return {match[1].lower(): match[2] for match in matches}


def _bearer(body: bytes, host: str) -> str:
    try:
        answer = json.loads(body)
        token = answer.get("token") or answer.get("access_token")
    except (ValueError, AttributeError):
        token = None
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise RegistryDenied(f"the token server of {host} answered without a token")
    return f"Bearer {token}"
