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

from .engine import detect
from .engine.base import Engine
from .errors import ArgumentInvalid, BaseimgError, BundleUnavailable
from .model import policy
from .ops.planning import Context

_BAR_SECONDS = 0.2
_EVENT_SECONDS = 5
_NOT_AS_DECLARED = ("digest-mismatch", "signature-invalid")


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
        self._fetched: list[str] = []
        self._bar = sys.stderr.isatty()
        self._told = time.monotonic()

    def engine(self) -> Engine:
        """The engine that ``baseimg:engine`` declares, else ``docker.url`` or ``DOCKER_HOST``, else what is here."""
        return detect.connect(self._choice())

    def engines(self) -> list[dict[str, Any]]:
        """What is here, and what of it is supported."""
        return detect.engines(self._choice())

    def _choice(self) -> detect.Choice:
        url = self._salt["config.get"]("docker.url") or os.environ.get("DOCKER_HOST") or ""
        return detect.declared(self._salt["config.get"]("baseimg:engine", None), url)

    def context(self, trust: bool = False) -> Context:
        """What an operation on a base is given; with ``trust`` bundles are checked against the trusted keys."""
        timeout = self._salt["config.get"]("baseimg:lock_timeout", 60)
        if not isinstance(timeout, int | float) or timeout < 0:
            raise ArgumentInvalid(f"baseimg:lock_timeout is {timeout!r}, expected seconds, 0 or more")
        reserve = self._salt["config.get"]("baseimg:reserve", 2)
        if not isinstance(reserve, int) or not 0 <= reserve < 100:
            raise ArgumentInvalid(f"baseimg:reserve is {reserve!r}, expected a percentage from 0 to 99")
        by = f"{self._pub['user']}, job {self._pub['jid']}" if self._pub else os.environ.get("SUDO_USER", "root")
        trusted = self._trust() if trust else policy.Trust()
        return Context(self.engine(), self.fetch, by, float(timeout), reserve, self.progress, trusted)

    def _trust(self) -> policy.Trust:
        own = self._salt["config.get"]("baseimg", {}, omit_grains=True, omit_pillar=True, omit_master=True)
        return policy.trust(own, self._pillar.get("baseimg"))  # not pillar.get, which masks values (Salt 3008)

    def declared(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What pillar declares, checked, with defaults."""
        return policy.declared(self._pillar.get("baseimg"))

    def fetch(self, source: policy.Source) -> str:
        """A local path of what is at ``source``; raises :class:`BundleUnavailable`."""
        if source.source.startswith("/"):
            return source.source
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
        """Take the bar away."""
        if self._bar and self._action:
            self._write("")

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()
