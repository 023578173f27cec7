"""Whom we believe to be a registry: what the system believes, and what engines are told below ``certs.d``."""

from __future__ import annotations

import os
import ssl

from ..errors import ArgumentInvalid

# where Docker and Podman look (docker-docs "Verify repository client with certificates", containers-certs.d(5))
CERTS = ("/etc/docker/certs.d", "/etc/containers/certs.d")


def context(host: str, insecure: bool = False) -> ssl.SSLContext:
    """
    For connections to ``host``. ``*.crt`` are CAs, ``NAME.cert`` and ``NAME.key`` our own certificate.

    With ``insecure`` nobody checks whom we talk to. Raises :class:`ArgumentInvalid` for files that cannot be used.
    """
    found = ssl.create_default_context()
    if insecure:
        found.check_hostname, found.verify_mode = False, ssl.CERT_NONE
    for directory in (os.path.join(root, host) for root in CERTS):
        for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
            path = os.path.join(directory, name)
            try:
                _load(found, path)
            except (OSError, ssl.SSLError) as exc:
                raise ArgumentInvalid(f"{path} is {exc.strerror}, expected a certificate in PEM form") from None
    return found


def _load(found: ssl.SSLContext, path: str) -> None:
    stem, kind = os.path.splitext(path)
    if kind == ".crt":
        found.load_verify_locations(path)
    elif kind == ".cert":
        found.load_cert_chain(path, stem + ".key", password=_no_password)


def _no_password() -> bytes:
    """OpenSSL would ask on the terminal."""
    return b""
