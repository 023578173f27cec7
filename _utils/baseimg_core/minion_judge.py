"""The function ``baseimg.judge``: judges images for a bundle, and stores the result with the bundle."""

from __future__ import annotations

from typing import Any

from .minion import Minion
from .model.policy import pillar, reference, validation
from .ops import judge as ops_judge
from .ops.judgement import Attacher


def judge(
    minion: Minion, bundle: object, names: object, accept: object, attach: object, key: object, platform: object
) -> dict[str, Any]:
    """
    Judge images for a bundle.

    Args:
        minion: The minion.
        bundle: A path or URL.
        names: The images.
        accept: Patterns of images whose verdict does not count.
        attach: True to attach the result to the bundle.
        key: The path of a private key that signs the attached result; ``None`` for no signature.
        platform: The platform of images in indexes; ``None`` for that of this machine.

    Returns:
        The result of ``baseimg.judge``.

    Raises:
        ArgumentInvalid: An argument is wrong.
        BundleUnavailable: The bundle cannot be fetched.
    """
    source = minion.pinned(pillar.bundle_source(bundle, None, "bundle").source)
    in_registry = reference.is_registry(source)
    if attach and not in_registry:
        validation.absolute_path(source, "bundle")
    attacher = Attacher.with_key(None if key is None else pillar.signing_key(key, "key"))
    accepted, listed = pillar.patterns(accept, "accept"), validation.texts(names, "images")
    path = minion.fetch(pillar.Source(source))
    with minion.images(platform) as images:
        result = ops_judge.judge(images, path, listed, accepted, minion.progress, minion.results)
    result["bundle"] = source
    if attach and in_registry:
        minion.attach(source, attacher.attachment(result))
    elif attach:
        attacher.write(source, result)
    return result
