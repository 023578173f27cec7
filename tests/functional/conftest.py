"""Fixtures of the functional tests: a lab on the shared engine, with Salt's modules loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.functional.lab")

from baseimg_core.ops import verdicts  # noqa: E402
from tests.functional.lab import Lab  # noqa: E402
from tests.support.engine import Engine  # noqa: E402
from tests.support.minion import Minion  # noqa: E402


@pytest.fixture(autouse=True)
def emptied(engine: Engine) -> Iterator[None]:
    """Remove all images after each test; equal layers of a later test would be in swapped directories."""
    yield
    engine.remove_all()


@pytest.fixture
def lab(engine: Engine, salt_local: Minion, tmp_path: Path) -> Lab:
    return Lab(engine, salt_local, tmp_path)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of the images that are judged."""
    names: list[str] = []
    judge = verdicts.ImageJudge.image

    def image(self: verdicts.ImageJudge, image: Any) -> verdicts.Judgement:
        names.append(image.name)
        return judge(self, image)

    monkeypatch.setattr(verdicts.ImageJudge, "image", image)
    return names
