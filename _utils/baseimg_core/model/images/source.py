"""
Names of images outside an engine, in the notation of containers-transports(5).

``docker-archive:FILE[:REF]``, ``oci:DIRECTORY[:REF]``, ``oci-archive:FILE[:REF]`` and ``docker://HOST/NAME:TAG`` or
``docker://HOST/NAME@DIGEST``. Any other name is a reference of the engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..policy import reference
from ..policy.validation import wrong

ARCHIVE, LAYOUT, LAYOUT_ARCHIVE, REGISTRY = "docker-archive", "oci", "oci-archive", "docker"
_LOCAL = (ARCHIVE, LAYOUT, LAYOUT_ARCHIVE)


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image outside an engine."""

    #: ``docker-archive``, ``oci``, ``oci-archive`` or ``docker``.
    transport: str
    #: The file or directory; empty for a registry.
    path: str
    #: The name of the image there; empty for the only one.
    reference: str
    #: The whole name, as given.
    name: str


@dataclass(frozen=True, slots=True)
class Platform:
    """The platform of an image (OCI image spec, image-index.md, ``platform``)."""

    #: Operating system, as in Go's GOOS.
    os: str
    #: CPU architecture, as in Go's GOARCH.
    architecture: str
    #: CPU variant, as in ``v7``; empty for any.
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def is_source(name: str) -> bool:
    """True if ``name`` is an image outside an engine."""
    return name.startswith((reference.SCHEME, *(f"{transport}:" for transport in _LOCAL)))


def parse(name: str) -> ImageSource | None:
    """
    Parse the name of an image.

    Returns:
        The source; ``None`` for a reference of the engine.

    Raises:
        ArgumentInvalid: The name lacks a part.
    """
    if not is_source(name):
        return None
    transport, _, rest = name.partition(":")
    if transport == REGISTRY:
        try:
            place = reference.parse(name)
        except reference.ReferenceMalformed as exc:
            raise wrong(
                "image", reference.without_password(name), f"docker://HOST/NAME:TAG or @DIGEST: {exc}"
            ) from None
        return ImageSource(transport, "", str(place), name)
    path, _, named = rest.partition(":")
    if not path:
        raise wrong("image", name, f"{transport}:PATH or {transport}:PATH:REFERENCE")
    return ImageSource(transport, path, named, name)


def parse_platform(text: object) -> Platform | None:
    """
    Parse ``OS/ARCHITECTURE`` or ``OS/ARCHITECTURE/VARIANT``.

    Raises:
        ArgumentInvalid: The text has another form.
    """
    if text is None:
        return None
    parts = text.split("/") if isinstance(text, str) else []
    if len(parts) not in (2, 3) or not all(parts):
        raise wrong("platform", text, "OS/ARCHITECTURE, such as linux/amd64")
    return Platform(*parts)
