"""
What a minion gives to an operation: its engine, whom it trusts, bundles from anywhere, and a place to show progress.

Salt's own names come in as arguments, so nothing here imports Salt.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from .context import Context
from .engine import detect
from .engine.base import Engine
from .errors import ArgumentInvalid, BaseimgError, BundleUnavailable
from .model.policy import pillar as policy_pillar
from .model.policy import protection, reference
from .ops import status
from .registry import pull, push

_BAR_SECONDS = 0.2
_EVENT_SECONDS = 5
_NOT_AS_DECLARED = ("digest-mismatch", "signature-invalid", "bundle-invalid")


class Minion:
    """
    One operation's view of the minion that it runs on.

    ``functions``, ``opts`` and ``pillar`` are Salt's ``__salt__``, ``__opts__`` and ``__pillar__``. ``action`` names
    the operation in progress, ``pub`` says who published it (``user`` and ``jid``; nothing for ``salt-call``).
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any]],
        opts: Mapping[str, Any],
        pillar: Mapping[str, Any],
        action: str = "",
        pub: Mapping[str, str] | None = None,
    ) -> None:
        self._salt, self._opts, self._pillar = functions, opts, pillar
        self._action, self._pub = action, dict(pub or {})
        self._engine: Engine | None = None
        self._fetched: list[str] = []
        self._cache: pull.Cache | None = None
        self._watched: tuple[Engine, dict[str, tuple[int, int]]] | None = None
        self._bar = sys.stderr.isatty()
        self._told = time.monotonic()

    def engine(self) -> Engine:
        """The engine that ``baseimg:engine`` declares, else ``docker.url`` or ``DOCKER_HOST``, else what is here."""
        if self._engine is None:
            self._engine = detect.connect(self._choice())
        return self._engine

    def engines(self) -> list[dict[str, Any]]:
        """What is here, and what of it is supported."""
        return detect.engines(self._choice())

    def _choice(self) -> detect.Choice:
        url = self._salt["config.get"]("docker.url") or os.environ.get("DOCKER_HOST") or ""
        return detect.declared(self._salt["config.get"]("baseimg:engine", None), url)

    def context(self, trust: bool = False, protect: object = None) -> Context:
        """
        What an operation on a base is given; with ``trust`` bundles are checked against the trusted keys, and images
        are protected that match ``protect`` or what pillar declares for the base.
        """
        timeout = self._salt["config.get"]("baseimg:lock_timeout", 60)
        if not isinstance(timeout, int | float) or timeout < 0:
            raise ArgumentInvalid(f"baseimg:lock_timeout is {timeout!r}, expected seconds, 0 or more")
        reserve = self._salt["config.get"]("baseimg:reserve", 2)
        if not isinstance(reserve, int) or not 0 <= reserve < 100:
            raise ArgumentInvalid(f"baseimg:reserve is {reserve!r}, expected a percentage from 0 to 99")
        devices = self._salt["config.get"]("baseimg:allow_devices", False)
        if not isinstance(devices, bool):
            raise ArgumentInvalid(f"baseimg:allow_devices is {devices!r}, expected true or false")
        link = policy_pillar.link(self._salt["config.get"]("baseimg:link", "auto"))
        by = f"{self._pub['user']}, job {self._pub['jid']}" if self._pub else os.environ.get("SUDO_USER", "root")
        trusted = self._trust() if trust else policy_pillar.Trust()
        # a mistake in pillar must not stand in the way of what needs nothing of it, such as a rollback
        kept = protection.protection(protect, self.declared()["bases"]) if trust else protection.Protection()
        engine = self.engine()
        self._watched = (engine, status.written(engine))
        return Context(engine, self.fetch, by, float(timeout), reserve, self.progress, trusted, devices, kept, link)

    def _trust(self) -> policy_pillar.Trust:
        own = self._salt["config.get"]("baseimg", {}, omit_grains=True, omit_pillar=True, omit_master=True)
        return policy_pillar.trust(own, self._pillar.get("baseimg"))  # not pillar.get, which masks values (Salt 3008)

    def declared(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What pillar declares, checked, with defaults."""
        return policy_pillar.declared(self._pillar.get("baseimg"))

    def bundles(self, base: str, bundle: object) -> protection.Declared | None:
        """The bundles to tell the impact of: ``bundle`` (a path, a URL, a version), else what pillar declares."""
        return protection.declared_bundles(base, bundle, self.declared()["bases"])

    def fetch(self, source: policy_pillar.Source) -> str:
        """A local path of what is at ``source``; raises :class:`BundleUnavailable`, and what :mod:`pull` raises."""
        if source.source.startswith("/"):
            return source.source
        if reference.is_registry(source.source):
            path = self._registry().fetch(source.source)
            self._fetched.append(path)
            return path
        digest = source.digest and source.digest.removeprefix("sha256:")
        saltenv = self._opts.get("saltenv") or "base"
        try:
            path = self._salt["cp.cache_file"](source.source, saltenv=saltenv, source_hash=digest)
        except Exception as exc:  # each transport has errors of its own
            raise BundleUnavailable(f"cannot fetch {source.source}: {exc}") from exc
        if not path:
            raise BundleUnavailable(f"cannot fetch {source.source}")
        self._fetched.append(path)
        return str(path)

    def push(self, bundle: str, place: reference.Reference, test: bool) -> dict[str, Any]:
        """Bring a bundle to a registry."""
        return push.push(bundle, place, self._registries(), test, self.progress)

    def _registry(self) -> pull.Cache:
        if self._cache is None:
            home = os.path.join(self._opts["cachedir"], "baseimg", "registry")
            self._cache = pull.Cache(home, self._registries(), self.progress)
        return self._cache

    def _registries(self) -> dict[str, policy_pillar.Registry]:
        return policy_pillar.registries(self._salt["config.get"]("baseimg:registries", {}))

    def failed(self, error: BaseimgError) -> None:
        """A fetched file that is not what was declared does not stay in the cache."""
        for path in self._fetched if error.code in _NOT_AS_DECLARED else ():
            if path.startswith(self._opts["cachedir"] + os.sep):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def progress(self, step: str, done: int, total: int) -> None:
        """Show how far we are: as a bar on a terminal, else as events on the bus, both now and then."""
        if time.monotonic() - self._told < (_BAR_SECONDS if self._bar else _EVENT_SECONDS):
            return
        self._told = time.monotonic()
        if self._bar:
            share = f"{100 * done // total:3d} %" if total else f"{done} paths"
            self._write(f"{self._action}: {step} {share}")
        elif self._opts.get("file_client") != "local":
            data = {"action": self._action, "step": step, "done": done, "total": total, **self._pub}
            self._salt["event.send"](f"salt/baseimg/progress/{self._action}", data)

    def close(self) -> None:
        """Take the bar away, and have the minion read its grains anew where a record was written, failure or not."""
        if self._bar and self._action:
            self._write("")
        if self._watched and status.written(self._watched[0]) != self._watched[1] and self._daemon():
            self._salt["saltutil.refresh_grains"]()  # with pillar, so that the master knows, too

    def _daemon(self) -> bool:
        """Whether a minion may listen; where none does, Salt would wait a second for it."""
        with contextlib.suppress(OSError):
            return any(name.startswith("minion_event_") for name in os.listdir(self._opts["sock_dir"]))
        return False

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()
