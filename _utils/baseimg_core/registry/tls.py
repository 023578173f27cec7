"""TLS trust for registries: system CAs plus ``certs.d``."""

from __future__ import annotations

import functools
import os
import ssl

from ..errors import ArgumentInvalid

# the directories of Docker and Podman (docker-docs "Verify repository client with certificates", containers-certs.d(5))
CERTS = ("/etc/docker/certs.d", "/etc/containers/certs.d")


def tls_context(host: str, insecure: bool = False) -> ssl.SSLContext:
    """
    Return the TLS settings for ``host``.

    In ``certs.d``, ``*.crt`` files are CAs. ``NAME.cert`` and ``NAME.key`` are a client certificate and its key.

    Args:
        host: The registry, with its port.
        insecure: True to skip the verification of the server's certificate.

    Raises:
        ArgumentInvalid: A file in ``certs.d`` is unusable.
    """
    system = ssl.get_default_verify_paths()
    trusted = (path for path in (system.cafile, system.capath) if path)
    own = [
        os.path.join(directory, name)
        for directory in (os.path.join(root, host) for root in CERTS)
        for name in (sorted(os.listdir(directory)) if os.path.isdir(directory) else ())
    ]
    return _context(host, insecure, tuple(own), tuple(_modified(path) for path in (*trusted, *own)))


@functools.lru_cache(maxsize=16)
def _context(host: str, insecure: bool, paths: tuple[str, ...], _modified: tuple[int, ...]) -> ssl.SSLContext:
    """Load the certificates once for hundreds of images: 10 ms and 0.7 MB each. Changed times cause a reload."""
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for path in paths:
        try:
            _load(context, path)
        except (OSError, ssl.SSLError) as exc:
            raise ArgumentInvalid(f"cannot load the certificate {path}: {exc.strerror}; use PEM") from None
    return context


def _modified(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:  # loading it reports why
        return 0


def _load(context: ssl.SSLContext, path: str) -> None:
    stem, kind = os.path.splitext(path)
    if kind == ".crt":
        context.load_verify_locations(path)
    elif kind == ".cert":
        context.load_cert_chain(path, stem + ".key", password=_no_password)


def _no_password() -> bytes:
    """Return an empty password; without a callback OpenSSL prompts on the terminal."""
    return b""
