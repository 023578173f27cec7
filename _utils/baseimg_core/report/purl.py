"""Package URLs of images and packages (purl-spec), for documents that tools read."""

from __future__ import annotations

from collections.abc import Mapping

from packageurl import PackageURL

_TYPES = {"dpkg": "deb", "rpm": "rpm", "apk": "apk"}


def of_image(repository: str, digest: str) -> PackageURL:
    """
    Return the URL of an image.

    Args:
        repository: The name without tag and digest, with its registry if it has one.
        digest: ``sha256:…`` of its manifest, or the ID of a local image.
    """
    name = repository.rpartition("/")[2].lower() or "image"
    return PackageURL("oci", None, name, digest, {"repository_url": repository.lower()} if "/" in repository else None)


def of_package(manager: str, distro: Mapping[str, str], name: str, version: str, upstream: str = "") -> PackageURL:
    """
    Return the URL of a package.

    Args:
        manager: The package manager.
        distro: ``id`` and ``version`` of the distribution, as far as known.
        name: The name; dpkg's may end in an architecture, ``libc6:i386``.
        version: The version; empty for any.
        upstream: The source package, with ``@`` and its version if that is another one; empty if it is the same.
    """
    qualifiers = {}
    if manager == "dpkg":
        name, _, architecture = name.partition(":")
        qualifiers = {"arch": architecture} if architecture else {}
    if manager == "rpm" and ":" in version:
        qualifiers["epoch"], _, version = version.partition(":")
    if distro.get("id") and distro.get("version"):
        qualifiers["distro"] = f"{distro['id']}-{distro['version']}"
    if upstream:
        qualifiers["upstream"] = upstream
    namespace = distro.get("id") or None
    return PackageURL(_TYPES.get(manager, "generic"), namespace, name, version or None, qualifiers or None)
