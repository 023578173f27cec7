"""
The context of an operation on a minion: engine, trusted keys, limits, downloads and progress.

Salt's dunder objects are arguments, so this module does not import Salt.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from .context import GRACE, PREPARE_RATE, Context
from .engine import detect
from .engine.base import Engine
from .engine.images.blobs import Blobs
from .engine.images.store import ImageSources
from .errors import ArgumentInvalid, BaseimgError, BundleUnavailable, JobStale, SpaceExhausted
from .model.diagnosis import Check
from .model.images import source as image_source
from .model.impact.judgement import Attachment
from .model.policy import image_policy, reference, validation
from .model.policy import pillar as policy_pillar
from .ops import declared_bases, doctor, job_terms, preview, refusals, status
from .ops.preview import Goal
from .redact import redact_url, redacted_logs

if TYPE_CHECKING:
    from .registry import pull

_BAR_SECONDS = 0.2
_EVENT_SECONDS = 5
#: Errors after which a fetched bundle is of no use: it failed verification, or the node does not have its base.
_USELESS = ("digest-mismatch", "signature-invalid", "bundle-invalid", "base-absent")
#: Directories of downloads below the minion's cache: those of Salt's file client, and that of registries.
_DOWNLOADS = ("files", "extrn_files", os.path.join("baseimg", "registry"))
#: Operations after which the content of a bundle is on the node as a generation.
_MAKE_GENERATIONS = ("apply", "converge", "prepare")
#: Operations that refuse a declared version.
_REFUSING = ("fetch", "prepare", "converge")


@contextlib.contextmanager
def _registry_code() -> Iterator[None]:
    """
    Import the registry code on first use.

    Most operations do not need it, and an incompatible ``urllib3`` must not break them.
    """
    try:
        yield
    except ImportError as exc:
        raise BundleUnavailable(
            f"registries cannot be used on this node: {exc}", "install the Python package 'urllib3' beside Salt"
        ) from exc


class Minion:
    """
    One operation's view of its minion.

    Args:
        functions: Salt's ``__salt__``.
        opts: Salt's ``__opts__``.
        pillar: Salt's ``__pillar__``.
        action: The name of the operation in progress messages.
        pub: ``user`` and ``jid`` of the publication; ``None`` for ``salt-call``.
        saltenv: The Salt environment of fetched files.
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any]],
        opts: Mapping[str, Any],
        pillar: Mapping[str, Any],
        action: str = "",
        pub: Mapping[str, str] | None = None,
        saltenv: str | None = None,
    ) -> None:
        self._salt, self._opts, self._pillar, self._root = functions, opts, pillar, str(opts.get("root_dir"))
        self._saltenv = str(saltenv or opts.get("saltenv") or "base")
        self._action, self._pub = action, dict(pub or {})
        self._engine: Engine | None = None
        self._fetched: list[str] = []
        self._cache: pull.BundleCache | None = None
        self._records_before: tuple[Engine, dict[str, Any]] | None = None
        self._goals: dict[str, str] = {}
        self._grain_changed = False
        self._bar = sys.stderr.isatty()
        self._progress_shown = time.monotonic()

    def engine(self) -> Engine:
        """
        Return the engine in ``baseimg:engine``, ``docker.url`` or ``DOCKER_HOST``; by default detect it.
        """
        if self._engine is None:
            self._engine = detect.connect(self._choice())
        return self._engine

    def engines(self) -> list[dict[str, Any]]:
        """Return all engines on this node, each with its support status."""
        return detect.engines(self._choice())

    def _choice(self) -> detect.Choice:
        url = self._salt["config.get"]("docker.url") or os.environ.get("DOCKER_HOST") or ""
        return detect.declared(self._salt["config.get"]("baseimg:engine", None), url)

    def context(
        self,
        trust: bool = False,
        protect: object = None,
        accept: object = None,
        require: object = None,
        terms: job_terms.JobTerms | None = None,
    ) -> Context:
        """
        Return the context of an operation on a base.

        Args:
            trust: Verify bundles with the trusted keys, and protect images.
            protect: Patterns of images to protect, in addition to those in pillar.
            accept: Patterns of images that may break, in addition to those in pillar.
            require: Fixes that must reach every image, in addition to those in pillar.
            terms: The terms of the job; ``None`` for a job without a deadline.

        Raises:
            ArgumentInvalid: A value in the configuration or in pillar is wrong.
        """
        devices = validation.boolean(self._salt["config.get"]("baseimg:allow_devices", False), "baseimg:allow_devices")
        link = policy_pillar.link_policy(self._salt["config.get"]("baseimg:link", "auto"))
        # an invalid pillar must not block operations that do not need pillar, for example a rollback
        rules = image_policy.parse(protect, self.declared()["bases"] if trust else {}, accept, require)
        bases = self.declared_bases()
        below = {base["chain_id"] or name: base["below"] for name, base in bases.items() if base["below"]}
        trusted = self._trust() if trust else policy_pillar.Trust()  # a wrong key is reported without an engine, too
        self._records_before = (engine := self.engine()), status.record_fingerprints(engine)
        context = Context(
            engine,
            self.fetch,
            f"{self._pub['user']}, job {self._pub['jid']}" if self._pub else os.environ.get("SUDO_USER", "root"),
            self._seconds("lock_timeout", 60),
            self._reserve(),
            self.progress,
            trusted,
            devices,
            rules,
            link,
            below,
            grace=self._seconds("grace", GRACE),
            places=partial(detect.places, self._choice(), engine),
            versions={name: (base["chain_id"] or name, base["version"]) for name, base in bases.items()},
            master_digest=self.master_digest,
            manifests=os.path.join(self._opts["cachedir"], "baseimg", "manifests"),
            names=os.path.join(self._opts["cachedir"], "baseimg", "names"),
            operation=self._action,
        )
        return replace(context, admit=terms.check_terms) if terms else context

    def declared_bases(self) -> dict[str, dict[str, Any]]:
        """Return the declared bases; empty if pillar is invalid, so that a rollback still works."""
        with contextlib.suppress(BaseimgError):
            return self.declared()["bases"]
        return {}

    def terms(self, not_after: object, rollout: object, cancels: bool = False) -> job_terms.JobTerms:
        """
        Return the terms of a rollout's job.

        Args:
            not_after: The deadline for the job's start, in seconds since the epoch; ``None`` for no limit.
            rollout: An ID, a list of IDs, or ``None``.
            cancels: True if the job rolls these rollouts back.

        Raises:
            ArgumentInvalid: An argument has a wrong type.
        """
        return job_terms.parse(not_after, rollout, cancels, self._opts["cachedir"])

    def _seconds(self, option: str, default: float) -> float:
        value = self._salt["config.get"](f"baseimg:{option}", default)
        return float(validation.number(value, f"baseimg:{option}", "seconds, 0 or more"))

    def prepare_rate(self) -> float:
        """Return ``baseimg:prepare_rate`` in bytes a second; raise :class:`ArgumentInvalid` if it is wrong."""
        return self._rate("prepare_rate", PREPARE_RATE)

    def _rate(self, option: str, default: float) -> float:
        """Return an option in MB a second as bytes a second."""
        rate = self._salt["config.get"](f"baseimg:{option}", default)
        expected = "MB a second, more than 0"
        return validation.number(rate, f"baseimg:{option}", expected, sys.float_info.min) * 1e6

    def _reserve(self) -> int:
        reserve = self._salt["config.get"]("baseimg:reserve", 2)
        return validation.whole_number(reserve, "baseimg:reserve", "a percentage from 0 to 99", 0, 99)

    def _trust(self) -> policy_pillar.Trust:
        own = self._salt["config.get"]("baseimg", {}, omit_grains=True, omit_pillar=True, omit_master=True)
        return policy_pillar.trust(own, policy_pillar.value_of(self._pillar, self._root))  # pillar.get masks (3008)

    def declared_version(self, base: str) -> str | None:
        """Return the version that pillar declares for a base; ``None`` without one, or if pillar is invalid."""
        try:
            declared = self.declared()["bases"].get(base)
        except BaseimgError:
            return None
        return str(declared["version"]) if declared else None

    def known_versions(self, base: str) -> set[str]:
        """Return the versions that pillar declares for a base, and those of its bundles; empty if pillar is invalid."""
        declared = self.declared_bases().get(base)
        return {declared["version"], *declared["bundles"]} if declared else set()

    def examine(self, salt: str, suite: str) -> list[Check]:
        """
        Run every check of ``baseimg.doctor``, and save whether the node is ready, for the grain.

        Args:
            salt: The version of Salt.
            suite: The version of baseimg.
        """
        checks = doctor.examine(
            doctor.MinionFacts(
                salt=salt,
                suite=suite,
                cachedir=self._opts["cachedir"],
                extension_modules=self._opts["extension_modules"],
                file_roots=self._opts["file_roots"] if self._opts["file_client"] == "local" else {},
                layers_roots=self._salt["config.get"]("baseimg:layers_roots", None),
                reserve=self._reserve,
                connect=self.engine,
                sources=self._registry_sources,
                trust=self._trust,
                resolve=lambda source: self._bundle_cache().resolve(source),
            )
        )
        self._grain_changed = doctor.save(self._opts["cachedir"], checks)
        return checks

    def _registry_sources(self) -> list[str]:
        """Return the registries' sources of the declared bundles; raise :class:`ArgumentInvalid`."""
        policy_pillar.check_top_level(self._pillar)
        bases = self.declared()["bases"].values()
        sources = [source for base in bases for source in policy_pillar.bundles(base["bundles"]).values()]
        places = [place for source in sources for place in source.places]
        return sorted({place for place in places if reference.is_registry(place)})

    def declared(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return the declarations in pillar, validated, with defaults."""
        return policy_pillar.declared(policy_pillar.value_of(self._pillar, self._root))

    def order(self) -> list[str]:
        """Return the references of the declared bases in the order in which they converge."""
        bases = self.declared()["bases"]
        try:
            engine = self.engine()
        except BaseimgError:  # each converge reports it
            return list(bases)
        return preview.order(
            engine, [Goal(name, base["version"], {}, base["chain_id"]) for name, base in bases.items()]
        )

    def bundles(self, base: str, bundle: object) -> image_policy.DeclaredBundles | None:
        """Return the bundles to judge: ``bundle`` (a path, URL or version), by default those in pillar."""
        declared = declared_bases.declared_bundles(self.engine, base, bundle, self.declared()["bases"])
        return declared and replace(declared, bundles=self.with_digests(declared.bundles))

    def fetch(self, source: policy_pillar.Source) -> str:
        """
        Return the path of a local copy of ``source``.

        Raises:
            BundleUnavailable: No declared place has the bundle.
            BaseimgError: The registry or the cache failed.
        """
        failures = []
        for place in source.places:
            try:
                if source.alternatives and place.startswith("/") and not os.path.exists(place):
                    raise BundleUnavailable(f"{place} does not exist")
                return self._fetch(place, source.digest)
            except BundleUnavailable as exc:
                failures.append(exc)
        if len(failures) == 1:
            raise failures[0]
        raise BundleUnavailable("; ".join(failure.message for failure in failures)) from None

    def _fetch(self, place: str, digest: str | None) -> str:
        if place.startswith("/"):
            return place
        path = self._bundle_cache().fetch(place) if reference.is_registry(place) else self._cache_file(place, digest)
        self._fetched.append(path)
        return path

    def _cache_file(self, url: str, digest: str | None) -> str:
        """Fetch with Salt's file client. ``?saltenv=`` in the URL overrides the operation's environment."""
        try:
            hex_digest = digest and digest.removeprefix("sha256:")
            with redacted_logs(url):
                path = self._salt["cp.cache_file"](url, saltenv=self._saltenv, source_hash=hex_digest)
        except Exception as exc:  # each transport raises its own exceptions
            # drop the cause: its traceback would show the URL
            if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise SpaceExhausted(f"{self._opts['cachedir']} has no space: cannot fetch {url}") from None
            raise BundleUnavailable(f"cannot fetch {url}: {redact_url(str(exc), url)}") from None
        if not path and url.startswith("salt://"):
            saltenv = dict(parse_qsl(url.partition("?")[2])).get("saltenv", self._saltenv)
            raise BundleUnavailable(
                f"cannot fetch {url}: not found in the environment {saltenv}",
                f"publish it below file_roots of {saltenv}, or name another environment: {url.partition('?')[0]}"
                "?saltenv=NAME",
            )
        if not path:
            raise BundleUnavailable(f"cannot fetch {url}")
        return str(path)

    def master_digest(self, url: str) -> str | None:
        """Return the master's digest of a ``salt://`` URL; ``None`` without the file, or with another ``hash_type``."""
        try:
            digest = self._salt["cp.hash_file"](url, saltenv=self._saltenv)
        except Exception:  # each transport raises its own, and the digest is optional
            return None
        return f"sha256:{digest['hsum']}" if digest and digest.get("hash_type") == "sha256" else None

    def declaration(
        self, name: object, version: object, bundles: object, chain_id: object
    ) -> tuple[str, str, dict[str, policy_pillar.Source], str | None]:
        """
        Validate the arguments that declare a base.

        Args:
            name: The reference of the base.
            version: The declared version.
            bundles: The declared bundles by version; ``None`` for those in pillar, with the chain ID in pillar.
            chain_id: The chain ID of the base, or ``None``.

        Returns:
            The arguments, with the digests from hash files.

        Raises:
            ArgumentInvalid: An argument is wrong.
            BundleUnavailable: A hash file cannot be read.
        """
        policy_pillar.text(name, "name")
        if isinstance(version, str):  # a value of another type is an error of the caller, not a refused version
            self._goals[str(name)] = version
        if bundles is None and (declared := self.declared_bases().get(str(name))):
            bundles, chain_id = declared["bundles"], declared["chain_id"] if chain_id is None else chain_id
        policy_pillar.check_base(version, chain_id, "ok", str(name), bundles if isinstance(bundles, Mapping) else ())
        sources = self.with_digests(policy_pillar.bundles(bundles, f"{name}:bundles"))
        return str(name), str(version), sources, None if chain_id is None else str(chain_id)

    def with_digests(self, bundles: Mapping[str, policy_pillar.Source]) -> dict[str, policy_pillar.Source]:
        """Return the bundles with the digests from their hash files; raise :class:`BundleUnavailable`."""
        return {version: self._with_digest(source) for version, source in bundles.items()}

    def _with_digest(self, source: policy_pillar.Source) -> policy_pillar.Source:
        if source.hash_file is None:
            return source
        name = source.source.partition("?")[0].rpartition("/")[2]
        try:
            with redacted_logs(source.hash_file):
                checksum = self._salt["file.get_source_sum"](
                    name, source.source, source.hash_file, saltenv=self._saltenv
                )
        except Exception as exc:  # Salt's exceptions, and those of each transport
            reason = redact_url(str(exc), source.hash_file)
            raise BundleUnavailable(f"cannot read a digest from {source.hash_file}: {reason}") from None
        if checksum["hash_type"] != "sha256":
            raise ArgumentInvalid(
                f"{source.hash_file} has a digest of the type {checksum['hash_type']}, expected sha256"
            )
        return replace(source, digest=f"sha256:{checksum['hsum'].lower()}", hash_file=None)

    def push(self, bundle: str, place: reference.Reference, test: bool) -> dict[str, Any]:
        """
        Push a bundle to a registry.

        Args:
            bundle: The path of the bundle.
            place: The destination.
            test: True to send nothing.

        Returns:
            The result of ``baseimg.push``.
        """
        with _registry_code():
            from .registry import push
        return push.push(bundle, place, self._registries(), test, self.progress)

    def attach(self, source: str, attachment: Attachment) -> None:
        """
        Attach a judgement to a bundle in a registry.

        Args:
            source: The bundle, by digest.
            attachment: The judgement.
        """
        with _registry_code():
            from .registry import push
        push.attach(reference.parse(source), attachment, self._registries())

    @property
    def results(self) -> str:
        """The directory that keeps results of ``baseimg.judge``."""
        return os.path.join(self._opts["cachedir"], "baseimg")

    def pinned(self, source: str) -> str:
        """Return a source by digest if it is a tag in a registry, because a tag may move; else as given."""
        return self._bundle_cache().resolve(source) if reference.is_registry(source) else source

    @contextlib.contextmanager
    def images(self, platform: object = None) -> Iterator[ImageSources]:
        """
        Provide the images of the engine, of archives and of registries, for one operation.

        Args:
            platform: The platform of images in indexes, ``OS/ARCHITECTURE``; ``None`` for that of this machine.

        Raises:
            ArgumentInvalid: The platform is malformed.
        """
        with ImageSources(self.engine, self._connect, image_source.parse_platform(platform)) as opened:
            yield opened

    def _connect(self, image: image_source.ImageSource, directory: str, keep: bool) -> tuple[Blobs, bytes]:
        with _registry_code():
            from .registry import images
        return images.connect(image, directory, keep, self._registries(), self.progress)

    def _bundle_cache(self) -> pull.BundleCache:
        if self._cache is None:
            home = os.path.join(self._opts["cachedir"], "baseimg", "registry")
            with _registry_code():
                from .registry import pull
            rate = self._rate("fetch_rate", float("inf"))
            self._cache = pull.BundleCache(home, self._registries(), self.progress, self._reserve(), rate)
        return self._cache

    def _registries(self) -> dict[str, policy_pillar.Registry]:
        return policy_pillar.registries(self._salt["config.get"]("baseimg:registries", {}))

    def note_refusal(self, base: str, version: str, code: str, message: str) -> bool:
        """
        Note that this node refused a version, for grain, metrics and beacon.

        Args:
            base: The declared reference of the base.
            version: The refused version.
            code: The code of the error.
            message: The message of the error.

        Returns:
            True if the version or the code is new.
        """
        self._grain_changed |= refusals.note(self._opts["cachedir"], base, version, code, message)
        return self._grain_changed

    def standing_refusals(self, statuses: Iterable[Mapping[str, Any]], is_survey: bool = True) -> list[dict[str, str]]:
        """Return the refusals that still hold (:func:`ops.refusals.standing`)."""
        self.forget_refusals()
        return refusals.standing(self._opts["cachedir"], statuses, is_survey)

    def forget_refusals(self) -> None:
        """Remove notes about bases that pillar does not declare and that this node does not have."""
        with contextlib.suppress(BaseimgError):  # an invalid pillar may declare any base
            self._grain_changed |= refusals.forget(self._opts["cachedir"], self.declared()["bases"], self.engine)

    def fail(self, error: BaseimgError) -> None:
        """Note a refusal; remove downloads that failed verification, or whose base is not on this node."""
        if self._action in _REFUSING and not isinstance(error, JobStale):
            self._grain_changed |= refusals.note_error(self._opts["cachedir"], self._goals, error)
            self.forget_refusals()
        if error.code in _USELESS:
            self._delete_downloads()

    def finish(self) -> None:
        """Remove what a success makes obsolete: the refusal, and the downloads whose content is on the node now."""
        for base in self._goals if self._action in _REFUSING else ():
            self._grain_changed |= refusals.clear(self._opts["cachedir"], base)
        self.forget_refusals()
        if self._action in _MAKE_GENERATIONS:
            self._delete_downloads()

    def _delete_downloads(self) -> None:
        homes = tuple(os.path.join(self._opts["cachedir"], name, "") for name in _DOWNLOADS)
        for path in self._fetched:
            if path.startswith(homes):  # with file_client: local, Salt returns the file of the file server itself
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def progress(self, step: str, done: int, total: int) -> None:
        """
        Show progress: a bar on a terminal, rate-limited events on the bus elsewhere.

        Args:
            step: The current step.
            done: Units that are done.
            total: Units in total; 0 if unknown.
        """
        if time.monotonic() - self._progress_shown < (_BAR_SECONDS if self._bar else _EVENT_SECONDS):
            return
        self._progress_shown = time.monotonic()
        if self._bar:
            share = f"{100 * done // total:3d} %" if total else f"{done} paths"
            self._write(f"{self._action}: {step} {share}")
        elif self._opts.get("file_client") != "local":
            data = {"action": self._action, "step": step, "done": done, "total": total, **self._pub}
            self._salt["event.send"](f"salt/baseimg/progress/{self._action}", data)

    def close(self) -> None:
        """Clear the progress bar, and refresh grains if any record changed."""
        if self._bar and self._action:
            self._write("")
        if self._cache:
            self._cache.close()
        if (self._grain_changed or self._records_changed()) and self._daemon():
            self._salt["saltutil.refresh_grains"]()  # it also refreshes pillar, which sends the grains to the master

    def _records_changed(self) -> bool:
        if self._records_before is None:
            return False
        engine, before = self._records_before
        return status.record_fingerprints(engine) != before

    def _daemon(self) -> bool:
        """True if a minion may be listening. Without one, Salt waits one second for it."""
        with contextlib.suppress(OSError):
            return any(name.startswith("minion_event_") for name in os.listdir(self._opts["sock_dir"]))
        return False

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()
