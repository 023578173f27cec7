"""Validation of pillar and arguments: bases, versions, bundles, keys and registries."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import ArgumentInvalid
from .. import signature as model_signature
from ..bundle.manifest import MEDIA_TYPES
from ..containers import live, policy, trial
from ..signature import PublicKey
from ..stack import ids
from ..store.nests import BELOW
from . import named_fixes, reference, validation

MISSING = ("ok", "fail")
text, _fields, _mapping, _wrong = validation.text, validation.fields, validation.mapping, validation.wrong
DELTAS = ("auto", "both", "only")
LINKS = ("auto", "reflink", "copy", "hardlink")
_OPTIONS = frozenset(
    {
        *("engine", "lock_timeout", "reserve", "allow_devices", "layers_roots", "link", "grace"),
        *("prepare_rate", "fetch_rate"),
        *("trusted_keys", "require_signature", "registries"),
    }
)
# model.rollout checks "rollout" and "rollouts", on the master
_PILLAR_KEYS = frozenset({"bases", "builds", "rollout", "rollouts"}) | _OPTIONS
_BASE_KEYS = frozenset(
    {
        *("version", "bundles", "chain_id", "missing", "repair", "containers", "live", "below", "keep"),
        *("protect", "accept", "impaired", "breaks", "ghosts", "require", "trial"),
    }
)
_ACCEPTANCE = {"impaired": ("refuse", "accept"), "breaks": ("refuse", "unused"), "ghosts": ("accept", "refuse")}
_BUILD_KEYS = frozenset({"source", "target", "version", "compression", "key", "delta", "fixes"})
_BUNDLE_KEYS = frozenset({"source", "hash", "source_hash"})
_DIGEST = re.compile(r"(?:sha256[:=])?([0-9a-f]{64})", re.IGNORECASE)
_REGISTRY_KEYS = frozenset({"mirrors", "insecure"})
_TRUST_KEYS = frozenset({"trusted_keys", "require_signature"})
SIGNATURE_SUFFIX = ".sig"
JUDGEMENT_SUFFIX = ".judged"
# identities in ssh-keygen's allowed_signers, without patterns
_IDENTITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._+-]{0,127}")

_SALT_SSH_ROOT = "/running_data"  # salt-ssh's directory on the target
_ERROR_LENGTH = 300  # characters of an error of Salt's renderer


def link_policy(value: object) -> str:
    """
    Validate ``baseimg:link``: how a new generation shares data with the previous one.

    Raises:
        ArgumentInvalid: The value is wrong; the message has its key.
    """
    if value not in LINKS or not isinstance(value, str):
        raise _wrong("baseimg:link", value, f"one of: {', '.join(LINKS)}")
    return value


@dataclass(frozen=True, slots=True)
class Source:
    """The declared source of a bundle."""

    #: A path on the node, or a URL.
    source: str
    #: The declared digest of the file, ``sha256:…``; ``None`` without one.
    digest: str | None = None
    #: Alternative places of the same file, tried in order.
    alternatives: tuple[str, ...] = ()
    #: A path or URL of a file with the digest.
    hash_file: str | None = None

    @property
    def places(self) -> tuple[str, ...]:
        """All places of the file, in order."""
        return (self.source, *self.alternatives)

    @property
    def signature(self) -> Source:
        """The source of the signature: the same place with a suffix, which precedes the query of a URL."""
        return self._companion(reference.SIGNATURE, SIGNATURE_SUFFIX)

    @property
    def judgement(self) -> Source:
        """The source of the judgement that is attached to the bundle."""
        return self._companion(reference.JUDGEMENT, JUDGEMENT_SUFFIX)

    def _companion(self, part: str, suffix: str) -> Source:
        first, *others = (_companion_place(place, part, suffix) for place in self.places)
        return Source(first, alternatives=tuple(others))


def _companion_place(source: str, part: str, suffix: str) -> str:
    if reference.is_registry(source):
        return source + part
    place, mark, query = source.partition("?") if "://" in source else (source, "", "")
    return place + suffix + mark + query


@dataclass(frozen=True, slots=True)
class Registry:
    """The declared settings of one registry."""

    #: URLs that are tried before the registry.
    mirrors: tuple[str, ...] = ()
    #: True to skip certificate verification and to allow HTTP.
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Trust:
    """
    The keys that a node trusts.

    Without keys, signatures are ignored; with keys, an existing signature must verify.
    """

    #: Public keys by identity.
    keys: Mapping[str, PublicKey] = field(default_factory=dict)
    #: True to refuse unsigned bundles.
    required: bool = False


def bundle_source(source: object, digest: object, key: str) -> Source:
    """
    Validate the source and the digest of one bundle.

    Args:
        source: A path or URL.
        digest: ``sha256:…``, ``sha256=…``, or the hex digits that sha256sum prints; ``None`` without one.
        key: The key of the declaration, for the error.

    Raises:
        ArgumentInvalid: The source or the digest is malformed.
    """
    text(source, f"{key}:source")
    place = str(source)
    if reference.is_registry(place):
        try:
            reference.parse(place)
        except reference.ReferenceMalformed as exc:
            raise _wrong(
                f"{key}:source", reference.without_password(place), f"docker://HOST/NAME@sha256:… or :TAG ({exc})"
            ) from exc
    if not (place.startswith("/") or "://" in place):
        raise _wrong(f"{key}:source", source, "an absolute path or a URL such as salt://baseimg/bundles/base.tar")
    if digest is None:
        return Source(place)
    if (normal := _normal_digest(digest)) is None:
        raise _wrong(f"{key}:hash", digest, "64 hex digits, as 'sha256sum' of the file prints them")
    return Source(place, normal)


def _normal_digest(value: object) -> str | None:
    """Return a declared digest in OCI notation; ``None`` if the value is not a sha256 digest."""
    match = _DIGEST.fullmatch(value) if isinstance(value, str) else None
    return f"sha256:{match[1].lower()}" if match else None


def bundles(raw: object, key: str = "bundles") -> dict[str, Source]:
    """Validate declared bundles. Return their sources by target version."""
    sources: dict[str, Source] = {}
    for version, declaration in _mapping(raw, key, "versions, each with a bundle's source and hash").items():
        place = f"{key}:{version}"
        text(version, f"a version in {key}")
        fields = _fields(declaration, _BUNDLE_KEYS, place, "a mapping with source and hash")
        sources[version] = _declared_source(fields, place)
    return sources


def _declared_source(fields: Mapping[str, Any], key: str) -> Source:
    """Return a bundle's source: ``source`` (one, or an ordered list), ``hash`` or ``source_hash``."""
    places = fields.get("source")
    if not isinstance(places, list):
        places = [places]
    if not places:
        raise _wrong(f"{key}:source", places, "at least one source")
    sources = [bundle_source(place, fields.get("hash"), key) for place in places]
    digest, hash_file = sources[0].digest, None
    if (raw := fields.get("source_hash")) is not None:
        if digest is not None:
            raise _wrong(f"{key}:source_hash", raw, "either hash or source_hash")
        text(raw, f"{key}:source_hash")
        digest = _normal_digest(raw)
        if digest is None and (raw.startswith("/") or "://" in raw):
            hash_file = str(raw)
        elif digest is None:
            raise _wrong(f"{key}:source_hash", raw, "sha256=<64 hex digits>, or the path or URL of a file with them")
    return Source(sources[0].source, digest, tuple(source.source for source in sources[1:]), hash_file)


def value_of(raw: Mapping[str, Any], root: str = "") -> object:
    """
    Return the pillar key ``baseimg``; ``None`` without it.

    The texts of Salt 3008's pillar print as asterisks. So they are converted: messages show the declared value.

    Args:
        raw: The whole pillar.
        root: The option ``root_dir``.

    Raises:
        ArgumentInvalid: A declaration may be missing (keys, protected images): a part of the pillar failed to render,
            or salt-ssh called the function.
    """
    if not raw and root.endswith(_SALT_SSH_ROOT):
        raise ArgumentInvalid(
            "salt-ssh gives functions on the target no pillar, so declarations would not be seen",
            "write a state of your own with version and bundles, or install a minion (installation.md, salt-ssh)",
        )
    if errors := raw.get("_errors"):
        listed = errors if isinstance(errors, list | tuple) else [errors]
        reason = " ".join(" ".join(map(str, listed)).split())[:_ERROR_LENGTH]
        raise ArgumentInvalid(
            f"pillar is incomplete, Salt could not render it: {reason}",
            "mend the SLS file, then saltutil.refresh_pillar; salt-run pillar.show_pillar MINION shows the error",
        )
    return _plain(raw.get("baseimg"))


def _plain(value: object) -> object:
    """Return a copy of a value with mappings and lists of Python's own types."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def check_top_level(raw: Mapping[str, Any]) -> None:
    """
    Refuse a pillar with a misspelt key ``baseimg``, which would silently declare nothing.

    Raises:
        ArgumentInvalid: The pillar has no ``baseimg``, but a similar key with bases or builds.
    """
    if "baseimg" in raw:
        return
    for key in difflib.get_close_matches("baseimg", map(str, raw), 3, 0.75):
        content = raw.get(key)
        if isinstance(content, Mapping) and {"bases", "builds"} & content.keys():
            raise _wrong(key, content, "the key baseimg")


def declared(raw: object) -> dict[str, dict[str, dict[str, Any]]]:
    """
    Validate the whole pillar key ``baseimg``, and fill in defaults.

    Returns:
        ``bases``: arguments of ``baseimg.converged`` by reference; ``builds``: arguments of ``baseimg.built`` by path.

    Raises:
        ArgumentInvalid: A value is wrong; the message names its key.
    """
    pillar = _fields(raw, _PILLAR_KEYS, "baseimg", "a mapping with bases and builds")
    bases = _mapping(pillar.get("bases"), "baseimg:bases", "base references, each with a version")
    builds = _mapping(pillar.get("builds"), "baseimg:builds", "paths of bundles, each with a source and a target")
    trust(pillar)
    registries(pillar.get("registries"))
    return {
        "bases": {name: _base(name, declaration, f"baseimg:bases:{name}") for name, declaration in bases.items()},
        "builds": {path: _build(path, declaration, f"baseimg:builds:{path}") for path, declaration in builds.items()},
    }


def _base(name: object, raw: object, key: str) -> dict[str, Any]:
    text(name, "a name in baseimg:bases")
    fields = _fields(raw, _BASE_KEYS, key, "a mapping with version and bundles")
    bundles(fields.get("bundles"), f"{key}:bundles")
    arguments = {
        "version": fields.get("version"),
        "bundles": fields.get("bundles") or {},
        "chain_id": fields.get("chain_id"),
        "missing": fields.get("missing", "ok"),
        "repair": fields.get("repair", False),
        "protect": list(patterns(fields.get("protect"), f"{key}:protect")),
        "accept": list(patterns(fields.get("accept"), f"{key}:accept")),
        "impaired": fields.get("impaired", "refuse"),
        "breaks": fields.get("breaks", "refuse"),
        "ghosts": fields.get("ghosts", "accept"),
        "require": list(required(fields.get("require"), f"{key}:require")),
        "trial": fields.get("trial"),
        "containers": live.with_paths(fields.get("containers", "keep"), fields.get("live")),
        "below": fields.get("below"),
        "keep": keep(fields.get("keep", 1), f"{key}:keep"),
    }
    live.parse(fields.get("live"), f"{key}:live")
    policy.parse(arguments["containers"], f"{key}:containers")
    trial.parse(arguments["trial"], f"{key}:trial")
    for name, values in _ACCEPTANCE.items():
        if arguments[name] not in values:
            raise _wrong(f"{key}:{name}", arguments[name], f"one of: {', '.join(values)}")
    if not isinstance(arguments["repair"], bool):
        raise _wrong(f"{key}:repair", arguments["repair"], "true or false")
    if arguments["below"] not in (None, *BELOW):
        raise _wrong(f"{key}:below", arguments["below"], f"one of: {', '.join(BELOW)}")
    known = arguments["bundles"] if isinstance(arguments["bundles"], Mapping) else ()
    check_base(arguments["version"], arguments["chain_id"], arguments["missing"], key, known)
    return arguments


def _build(path: object, raw: object, key: str) -> dict[str, Any]:
    if not isinstance(path, str) or not path.startswith("/"):
        raise _wrong("a path in baseimg:builds", path, "an absolute path")
    fields = _fields(raw, _BUILD_KEYS, key, "a mapping with source and target")
    for name in ("source", "target"):
        text(fields.get(name), f"{key}:{name}")
    if fields.get("version") is not None:
        text(fields["version"], f"{key}:version")
    compression = fields.get("compression", "zstd")
    if compression not in MEDIA_TYPES:
        raise _wrong(f"{key}:compression", compression, f"one of: {', '.join(MEDIA_TYPES)}")
    if fields.get("key") is not None:
        signing_key(fields["key"], f"{key}:key")
    check_delta(fields.get("delta"), f"{key}:delta")
    named_fixes.parse(fields.get("fixes"), f"{key}:fixes")
    return {"version": None, "compression": "zstd", "key": None, "delta": None, "fixes": None, **fields}


def patterns(raw: object, key: str) -> tuple[str, ...]:
    """
    Return a validated list of shell patterns for images; ``key`` names it in errors.

    Raises:
        ArgumentInvalid: The value is wrong; the message has its key.
    """
    if raw is None:
        return ()
    if not isinstance(raw, list | tuple):
        raise _wrong(key, raw, "a list of image patterns, such as 'corp/legacy:*'")
    for number, pattern in enumerate(raw):
        text(pattern, f"{key}:{number}")
    return tuple(raw)


def required(raw: object, key: str) -> tuple[str, ...]:
    """
    Return a validated list of fixes that must reach every image; ``key`` names it in errors.

    Raises:
        ArgumentInvalid: The value is wrong; the message has its key.
    """
    if not isinstance(raw, list | tuple | None):
        raise _wrong(key, raw, "a list of packages, absolute paths and advisories, such as [openssl, CVE-2024-5535]")
    return tuple(text(name, f"{key}:{number}") for number, name in enumerate(raw or ()))


def trust(*places: object) -> Trust:
    """
    Validate the keys of the first place that declares any, so pillar cannot weaken the minion's file.

    Args:
        places: Mappings with the structure of pillar's ``baseimg``, the strongest first.

    Raises:
        ArgumentInvalid: A value is wrong. A mistake never results in an empty set of keys.
    """
    for place in places:
        fields = _fields(place, _PILLAR_KEYS, "baseimg", "a mapping")
        if _TRUST_KEYS & fields.keys():
            return _trust(fields.get("trusted_keys"), fields.get("require_signature"))
    return Trust()


def _trust(raw: object, required: object) -> Trust:
    declared = _mapping(raw, "baseimg:trusted_keys", "identities, each with a public key")
    if required is not None and not isinstance(required, bool):
        raise _wrong("baseimg:require_signature", required, "true or false")
    if not declared and required is not False:
        raise _wrong("baseimg:trusted_keys", raw, "at least one key, or require_signature: false")
    keys: dict[str, PublicKey] = {}
    for identity, line in declared.items():
        public_key = _trusted_key(identity, line)
        if public_key in keys.values():
            raise _wrong(f"baseimg:trusted_keys:{identity}", line, "a key that has no other identity")
        keys[identity] = public_key
    return Trust(keys, required is not False)


def _trusted_key(identity: object, line: object) -> PublicKey:
    text(identity, "an identity in baseimg:trusted_keys")
    if not _IDENTITY.fullmatch(str(identity)):
        raise _wrong("an identity in baseimg:trusted_keys", identity, "letters, digits and @._+-, as in release@corp")
    try:
        return model_signature.public_key(line if isinstance(line, str) else "")
    except model_signature.SignatureMalformed as exc:
        expected = f"a line as in a .pub file, 'ssh-ed25519 AAAA… comment' ({exc})"
        raise _wrong(f"baseimg:trusted_keys:{identity}", line, expected) from exc


def registries(raw: object) -> dict[str, Registry]:
    """
    Validate the declared registries.

    Returns:
        The settings by host, as in references (``registry.corp:5000``).

    Raises:
        ArgumentInvalid: The value is wrong; the message has its key.
    """
    key = "baseimg:registries"
    settings: dict[str, Registry] = {}
    for host, declaration in _mapping(raw, key, "registries' hosts, each with mirrors or insecure").items():
        if not reference.is_host(host):
            raise _wrong(
                f"a name in {key}", reference.without_password(host), "a host as in references: registry.corp:5000"
            )
        fields = _fields(declaration, _REGISTRY_KEYS, f"{key}:{host}", "a mapping with mirrors or insecure")
        mirrors, insecure = fields.get("mirrors") or [], fields.get("insecure", False)
        if not isinstance(mirrors, list) or not all(map(reference.is_mirror, mirrors)):
            raise _wrong(
                f"{key}:{host}:mirrors", reference.without_password(mirrors), "a list of URLs: https://mirror.corp:5000"
            )
        if not isinstance(insecure, bool):
            raise _wrong(f"{key}:{host}:insecure", insecure, "true or false")
        settings[host] = Registry(tuple(mirrors), insecure)
    return settings


def push_destination(destination: object) -> reference.Reference:
    """
    Validate the destination of a push: a registry, a name and a tag.

    Raises:
        ArgumentInvalid: The value is wrong; the message has its key.
    """
    text(destination, "destination")
    expected = "HOST/NAME:TAG, as in registry.corp:5000/baseimg/base:12.1"
    try:
        target = reference.parse(str(destination))
    except reference.ReferenceMalformed as exc:
        raise _wrong("destination", reference.without_password(destination), f"{expected} ({exc})") from exc
    if target.digest:
        raise _wrong("destination", destination, f"{expected} (the registry computes the digest)")
    return target


def signing_key(path: object, key: str) -> str:
    """
    Validate the path of a private key.

    Raises:
        ArgumentInvalid: The value is wrong; the message has its key.
    """
    if not isinstance(path, str) or not path.startswith("/") or not path.isprintable():
        raise _wrong(key, path, "the absolute path of a private key")
    return path


def check_delta(value: object, key: str) -> None:
    """
    Validate the delta encoding of a bundle; ``None`` means no delta.

    Raises:
        ArgumentInvalid: The value is wrong; the message has its key.
    """
    if value is not None and value not in DELTAS:
        raise _wrong(key, value, f"one of: {', '.join(DELTAS)}")


def keep(value: object, key: str = "keep") -> int:
    """
    Validate the number of contents that prune keeps; ``key`` names it in errors.

    Raises:
        ArgumentInvalid: The value is wrong; the message has its key.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _wrong(key, value, "a number of generations, 0 or more")
    return value


def check_base(version: object, chain_id: object, missing: object, key: str, known: Iterable[object] = ()) -> None:
    """
    Validate the fields of one base.

    Args:
        version: The declared version.
        chain_id: The declared chain ID; ``None`` without one.
        missing: The declared reaction to a missing base.
        key: The key of the base, for errors.
        known: The versions of declared bundles.

    Raises:
        ArgumentInvalid: A field is wrong.
    """
    text(version, f"{key}:version", known)
    if chain_id is not None and not ids.is_digest(chain_id):
        raise _wrong(f"{key}:chain_id", chain_id, "sha256:<64 hex digits>, as baseimg.layer prints it")
    if missing not in MISSING:
        raise _wrong(f"{key}:missing", missing, f"one of: {', '.join(MISSING)}")
