"""
One small tree of errors.

Every error that leaves the core is a :class:`BaseimgError`: a stable ``code`` that programs may test, a message that
says what was found, and a ``hint`` that says what to do next. A subclass exists where a caller acts differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class BaseimgError(Exception):
    """
    Something that an operator can act on. ``code`` never changes once released. ``result`` is what an operation has
    changed before it failed, as it would have returned it; empty where it has changed nothing.
    """

    code = "baseimg"
    hint = ""

    def __init__(self, message: str, hint: str = "", result: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.result = dict(result or {})
        self.message = message
        self.hint = hint or self.hint

    def as_dict(self) -> dict[str, Any]:
        """The error as data, for returns and ``info``."""
        told = {"code": self.code, "message": self.message, "hint": self.hint}
        return {**told, "result": self.result} if self.result else told

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}" + (f" -- {self.hint}" if self.hint else "")


class ArgumentInvalid(BaseimgError):
    """An argument or a pillar value is wrong; the message names the key, what was found, what was expected."""

    code = "argument-invalid"
    hint = "correct it and run again; nothing was changed"


class EngineUnreachable(BaseimgError):
    """No container engine answers at the address."""

    code = "engine-unreachable"
    hint = "start the engine, or set 'docker.url' in the minion's configuration or DOCKER_HOST in its environment"


class StorageUnsupported(BaseimgError):
    """The engine keeps its layers in a way that we do not handle."""

    code = "storage-unsupported"
    hint = (
        "supported, rootful: Docker with overlay2 or with containerd's overlayfs snapshotter, Podman with overlay, and "
        "containerd with overlayfs; baseimg.engines says what was found on this node (docs/design/engines.md)"
    )


class ImageUnknown(BaseimgError):
    """The engine has no such image."""

    code = "image-unknown"
    hint = "check the reference with 'docker image ls', or load the image first"


class BaseAbsent(BaseimgError):
    """No image on this node is built on the base."""

    code = "base-absent"
    hint = "nothing to do on a node without images on this base; else check the reference or give a chain ID"


class ImagesEqual(BaseimgError):
    """Source and target show the same content, so there is no bundle to build."""

    code = "images-equal"
    hint = "give two different versions of the base"


class BundleInvalid(BaseimgError):
    """The file is no bundle, or is truncated, damaged, hostile, or from an unknown format version."""

    code = "bundle-invalid"
    hint = "build or fetch the bundle again"


class BundleUnavailable(BaseimgError):
    """The bundle cannot be had from where it is declared to be."""

    code = "bundle-unavailable"
    hint = "check the source: a path on the node, docker://, or what cp.cache_file takes (salt://, http(s)://, s3://)"


class RegistryDenied(BaseimgError):
    """A registry does not let us in, or not do this."""

    code = "registry-denied"
    hint = (
        "log in with 'docker login HOST' as the user that the minion runs as, or check what that account may do; "
        "a config.json elsewhere is named by DOCKER_CONFIG in the minion's environment (docs/operating/registry.md)"
    )


class DigestMismatch(BundleInvalid):
    """Bytes do not have the digest that was declared for them."""

    code = "digest-mismatch"
    hint = "fetch the bundle again; if it fails again, correct the declared digest or rebuild the bundle"


class SignatureMissing(BaseimgError):
    """The bundle has no signature, and this node uses none without."""

    code = "signature-missing"
    hint = "sign the bundle with baseimg.sign, and put the file BUNDLE.sig beside it (docs/operating/signatures.md)"


class SignatureInvalid(BaseimgError):
    """The bundle's signature is damaged, of another file, for another purpose, or by a key that is not trusted."""

    code = "signature-invalid"
    hint = (
        "do not use this bundle until you know why; then sign it again with baseimg.sign, or declare the key "
        "in baseimg:trusted_keys (docs/operating/signatures.md)"
    )


class SignatureUnsupported(BaseimgError):
    """Signing, and checking signatures, needs a package that this Python does not have."""

    code = "signature-unsupported"
    hint = "install the Python package 'cryptography' beside Salt on this machine"


class CompressionUnsupported(BaseimgError):
    """The bundle's compression needs a package that this Python does not have."""

    code = "compression-unsupported"
    hint = "install the Python package 'zstandard' beside Salt on this node, or build with compression=gzip"


class BundleMismatch(BaseimgError):
    """A sound bundle, but not one for this base or for what it shows now."""

    code = "bundle-mismatch"
    hint = "give a bundle whose source is a version that this base can show (see baseimg.status)"


class DeltaMismatch(BaseimgError):
    """A delta needs old files that this node does not have as they were when the bundle was built."""

    code = "delta-mismatch"
    hint = "baseimg.verify tells what changed; a bundle with the full encoding does not need the old files"


class DeviceRefused(BaseimgError):
    """The bundle carries a device node that this node does not take."""

    code = "device-refused"
    hint = "find out why the base needs it; 'baseimg:allow_devices: true' in the minion's configuration takes it"


class VersionUnknown(BaseimgError):
    """A version that is not here and that no bundle leads to."""

    code = "version-unknown"
    hint = "see baseimg.status for the versions on the node, or declare a bundle that leads there"


class LayerUnsupported(BaseimgError):
    """A layer directory with overlay marks that we must not copy (redirect, metacopy), or mounts that use them."""

    code = "layer-unsupported"
    hint = "the engine must mount with redirect_dir, metacopy and index off, as engines do by default"


class NotUnpacked(BaseimgError):
    """The image's layers are packed only, so there is no directory of them."""

    code = "image-packed"
    hint = "run a container of the image once, or pull it for this node's platform: its layers are unpacked then"


class BaseNested(BaseimgError):
    """Another base above or below this one shows a version that is not its own."""

    code = "base-nested"
    hint = "roll that base back to pristine first; of bases that are built on one another only one can be swapped"


class ImageProtected(BaseimgError):
    """An image that is built on the base is protected from changes of it."""

    code = "image-protected"
    hint = "remove that image from this node, give it a base of its own, or take it out of 'protect'"


class NoWayBack(BaseimgError):
    """There is no generation to roll back to."""

    code = "no-way-back"
    hint = "see baseimg.status for the generations on the node"


class LayerBusy(BaseimgError):
    """Somebody else holds this base's lock."""

    code = "layer-busy"
    hint = "wait for the other job, or raise 'baseimg:lock_timeout'"


class ContentUnknown(BaseimgError):
    """The live layer directory is not one that the record knows, so nothing may be built upon it."""

    code = "content-unknown"
    hint = (
        "somebody replaced the layer directory by hand; converge with repair: true, which swaps the declared version "
        "in and keeps what is there as a generation"
    )


class PristineUnproven(BaseimgError):
    """The base's original content is not here, so no bundle can be laid over it and nothing leads back to it."""

    code = "pristine-unproven"
    hint = (
        "pull the base again after removing every image on it, or run baseimg.adopt again with a copy of the original "
        "layer directory below backup/ (docs/operating/taking-over.md)"
    )


class PristineDamaged(BaseimgError):
    """Somebody changed a file of the base's original content, so nothing starts from it or goes back to it."""

    code = "pristine-damaged"
    hint = "baseimg.verify names the file; remove every container and image on the base, and pull it again"


class LegacyAbsent(BaseimgError):
    """The shell scripts that baseimg replaces have left no properties file here."""

    code = "legacy-absent"
    hint = "nothing to take over on a node that they never updated; else give the overlay_dir that they used"


class LegacyInvalid(BaseimgError):
    """A file of the shell scripts that baseimg replaces is not what it should be."""

    code = "legacy-invalid"


class RecordInvalid(BaseimgError):
    """The node's record of a base is damaged or lost."""

    code = "record-invalid"
    hint = (
        "converge with repair: true, which makes the record again where the engine's checksum proves the original "
        "content; else restore the file, or remove the images on this base and pull them again"
    )


class RecordNewer(BaseimgError):
    """The node's record of a base has a format version that this baseimg does not know, so it is left alone."""

    code = "record-newer"
    hint = "update baseimg on this node: a newer one has written the record"


class ContainerUnknown(BaseimgError):
    """The engine has no such container."""

    code = "container-unknown"
    hint = "it was removed meanwhile; run again"


class ContainerRefused(BaseimgError):
    """The engine does not stop or start a container, or does not run a command in it."""

    code = "container-refused"
    hint = "try the same with the engine's own command, and see its log"


class GateFailed(BaseimgError):
    """A container that was restarted does not work with the content that it was restarted for."""

    code = "gate-failed"
    hint = (
        "see the container's log; each further run tries again, so declare the version that works "
        "(docs/operating/containers.md)"
    )


class RestartInterrupted(BaseimgError):
    """Restarting containers did not come to its end."""

    code = "restart-interrupted"
    hint = "run the same again: it starts what was stopped, and goes on"


class SpaceExhausted(BaseimgError):
    """The file system is full."""

    code = "space-exhausted"
    hint = "free space on that file system and run again"


class DestinationUnwritable(BaseimgError):
    """The bundle cannot be written there."""

    code = "destination-unwritable"
    hint = "give a path in an existing directory that can be written"


class MasterUnreachable(BaseimgError):
    """The Salt master does not take jobs."""

    code = "master-unreachable"
    hint = "start the master, then go on with 'salt-run baseimg.resume'"


class RolloutUnknown(BaseimgError):
    """No rollout has this ID, or it is not clear which one is meant."""

    code = "rollout-unknown"
    hint = "see 'salt-run baseimg.status' for the rollouts that there are, and give an ID"


class RolloutBusy(BaseimgError):
    """Another rollout of this base is not over."""

    code = "rollout-busy"
    hint = "see 'salt-run baseimg.status'; halt it, or wait for its end"


class RolloutHalted(BaseimgError):
    """A rollout was halted before every wave had passed: by a failure, by somebody, or by its window."""

    code = "rollout-halted"
    hint = "correct what the message names, then 'salt-run baseimg.resume'; or go back with 'salt-run baseimg.rollback'"


class RolloutFailed(BaseimgError):
    """A rollout failed and was rolled back, or nodes could not be rolled back."""

    code = "rollout-failed"
    hint = "see 'salt-run baseimg.status ID' for what happened on each node"
