"""Advisories that an operator names for a bundle, because no changelog does."""

from __future__ import annotations

from ..packages.advisories import MAX_ADVISORIES, is_advisory
from . import validation

_EXPECTED = "a mapping of packages or absolute paths to lists of advisories, such as {openssl: [CVE-2024-5535]}"


def parse(raw: object, key: str) -> dict[str, tuple[str, ...]]:
    """
    Validate the advisories that an operator names.

    Args:
        raw: Package or absolute path → one advisory or a list of them; ``None`` for none.
        key: The key of the declaration, for the error.

    Returns:
        Sorted advisories by package or path.

    Raises:
        ArgumentInvalid: The value is malformed, or a name is no ID of an advisory.
    """
    if raw is None:
        return {}
    named = {}
    for name, listed in validation.mapping(raw, key, _EXPECTED).items():
        validation.text(name, f"a name in {key}")
        advisories = [listed] if isinstance(listed, str) else listed
        if not isinstance(advisories, list | tuple) or not 0 < len(advisories) <= MAX_ADVISORIES:
            raise validation.wrong(f"{key}:{name}", listed, f"a list of 1 to {MAX_ADVISORIES} advisories")
        for advisory in advisories:
            if not isinstance(advisory, str) or not is_advisory(advisory):
                raise validation.wrong(f"{key}:{name}", advisory, "the ID of an advisory, such as CVE-2024-5535")
        named[name] = tuple(sorted(set(advisories)))
    return named
