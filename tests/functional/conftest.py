"""Fixtures of the functional tests: a lab on the shared engine, with Salt's modules loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.functional.lab")

from baseimg_core.model.impact.image_judgement import ImageJudgement  # noqa: E402
from baseimg_core.ops import verdicts  # noqa: E402
from tests.functional.lab import BUSYBOX, Lab  # noqa: E402
from tests.support import images, node  # noqa: E402
from tests.support.engine import Engine  # noqa: E402
from tests.support.images import ImageSpec  # noqa: E402
from tests.support.minion import Minion  # noqa: E402

KEPT = "kept:busybox"


@pytest.fixture(autouse=True)
def emptied(engine: Engine) -> Iterator[None]:
    """
    Remove the images after each test; equal layers of a later test would be in swapped directories.

    One image keeps the layer that nearly all have, unless a test has changed its directory: to unpack it is a third of
    a load.
    """
    if not _has_kept(engine):
        engine.load(images.archive([ImageSpec(KEPT, [BUSYBOX])]))
    yield
    (directory,) = node.layer_dirs(engine, KEPT) if _has_kept(engine) else [""]
    engine.remove_others("" if os.path.exists(os.path.join(directory, "../baseimg")) else KEPT)


def _has_kept(engine: Engine) -> bool:
    return any(KEPT in (image["RepoTags"] or ()) for image in engine.client.images())


@pytest.fixture
def lab(engine: Engine, salt_local: Minion, tmp_path: Path) -> Lab:
    return Lab(engine, salt_local, tmp_path)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of the images that are judged."""
    names: list[str] = []
    judge = verdicts.ImageJudge.image

    def image(self: verdicts.ImageJudge, image: Any) -> ImageJudgement:
        names.append(image.name)
        return judge(self, image)

    monkeypatch.setattr(verdicts.ImageJudge, "image", image)
    return names
