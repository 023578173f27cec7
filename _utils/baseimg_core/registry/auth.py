"""
Who we are to a registry: the engine's own ``config.json``, read by the Docker SDK, and tokens that it buys.

OCI distribution spec and Docker's token specification ("Token Authentication", "OAuth2"). No error and no log line says
more than a user's name: messages are made here, and the cause of an error is dropped where it may hold a secret.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlencode
from urllib.request import parse_http_list

from .. import sdk
from ..errors import RegistryDenied

_PARAMETER = re.compile(r'\s*([A-Za-z0-9_-]+)\s*=\s*"?((?:[^"\\]|\\.)*)"?\s*')

# method, URL, headers, body → the response's body; of the token server
Ask = Callable[[str, str, dict[str, str], bytes | None], bytes]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What ``config.json`` or a credential helper says for one host; empty where it says nothing."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> dict[str, str]:
        """The header for basic authentication; empty without a password."""
        if not self.password:
            return {}
        word = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {word}"}

    @property
    def shown(self) -> str:
        """Who we tried to be."""
        if self.identity_token:
            return "with the identity token of config.json"
        return f"as {self.user!r}" if self.password else "without credentials, config.json has none for it"


def credentials(host: str) -> Credentials:
    """For a registry's host: ``auths``, ``credHelpers``, ``credsStore``; raises :class:`RegistryDenied`."""
    try:
        known = sdk.docker().auth.load_config()
        found = known.resolve_authconfig(host) or {}
    except sdk.docker().errors.DockerException:
        raise RegistryDenied(
            f"config.json, or the credential helper that it names, cannot be used for {host}"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise RegistryDenied(f"config.json cannot be read: its entry for {host} or another is malformed") from None
    lower = {str(key).lower(): str(value or "") for key, value in found.items()}
    return Credentials(lower.get("username", ""), lower.get("password", ""), lower.get("identitytoken", ""))


def answer(challenge: str, who: Credentials, plain: bool, host: str, ask: Ask) -> str:
    """
    The ``Authorization`` header that answers a ``WWW-Authenticate``. ``plain`` allows a token server without TLS.

    Raises :class:`RegistryDenied`, and what ``ask`` raises.
    """
    kind, _, rest = challenge.partition(" ")
    if kind.lower() == "basic":
        if not who.basic:
            raise RegistryDenied(f"{host} asks who we are, {who.shown}")
        return who.basic["Authorization"]
    parameters = _parameters(rest) if kind.lower() == "bearer" else {}
    realm = parameters.pop("realm", "")
    if not re.match(r"https?://" if plain else "https://", realm):
        raise RegistryDenied(f"{host} asks for {kind[:40]!r} in a way that is not safe or not known")
    wanted = {key: value for key, value in parameters.items() if key in ("service", "scope")}
    if who.identity_token:
        form = {"grant_type": "refresh_token", "client_id": "baseimg", "refresh_token": who.identity_token, **wanted}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return _bearer(ask("POST", realm, headers, urlencode(form).encode()), host)
    if who.password:
        wanted["account"] = who.user
    return _bearer(ask("GET", realm + ("&" if "?" in realm else "?") + urlencode(wanted), who.basic, None), host)


def _parameters(text: str) -> dict[str, str]:
    found = filter(None, map(_PARAMETER.fullmatch, parse_http_list(text)))
    return {one[1].lower(): one[2] for one in found}


def _bearer(body: bytes, host: str) -> str:
    try:
        found = json.loads(body)
        token = found.get("token") or found.get("access_token")
    except (ValueError, AttributeError):
        token = None
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise RegistryDenied(f"the token server of {host} gave no token")
    return f"Bearer {token}"
