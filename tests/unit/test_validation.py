"""Values in the configuration and arguments: what is refused, and how the error reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from baseimg_core.errors import ArgumentInvalid
from baseimg_core.minion import Minion
from baseimg_core.model.policy import validation

NAN = float("nan")


@pytest.mark.parametrize("value", [True, "60", None, -1, NAN])
@pytest.mark.parametrize("option", ["lock_timeout", "grace", "reserve", "prepare_rate"])
def test_options_that_are_no_number(option: str, value: object) -> None:
    minion = Minion({"config.get": lambda *_arguments: value}, {}, {})
    read: dict[str, Callable[[], Any]] = {
        "lock_timeout": lambda: minion._seconds("lock_timeout", 60),
        "grace": lambda: minion._seconds("grace", 900),
        "reserve": minion._reserve,
        "prepare_rate": minion.prepare_rate,
    }
    with pytest.raises(ArgumentInvalid, match=f"baseimg:{option} is .*, expected "):
        read[option]()


@pytest.mark.parametrize("rate", [0, float("-inf")])
def test_a_rate_is_more_than_zero(rate: float) -> None:
    with pytest.raises(ArgumentInvalid, match="more than 0"):
        Minion({"config.get": lambda *_arguments: rate}, {}, {}).prepare_rate()


@pytest.mark.parametrize(
    ("known", "meant"),
    [
        ((), """'12.1' or '12.10', in a shell "'12.1'" or "'12.10'\""""),
        (("12.0", "12.10"), """'12.10', in a shell "'12.10'\""""),
        (("12.0", 12.1, "new"), "'12.1' or '12.10', in a shell "),
    ],
)
def test_a_number_names_the_versions_that_may_be_meant(known: tuple[object, ...], meant: str) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        validation.text(12.1, "version", known)
    assert f"version is '12.1' (float), expected a text: write it in quotes, {meant}" in caught.value.message


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            lambda: validation.whole_number(100, "k", "a percentage", 0, 99),
            r"k is '100' \(int\), expected a percentage",
        ),
        (lambda: validation.boolean(1, "k"), "expected true or false"),
        (lambda: validation.choice(["a"], "k", {"a": 1}), "expected one of: a"),
        (lambda: validation.absolute_path("a/b", "k"), "expected an absolute path"),
        (lambda: validation.absolute_path("/a.txt", "k", ".prom"), "an absolute path that ends in .prom"),
    ],
)
def test_mistakes(check: Callable[[], object], message: str) -> None:
    with pytest.raises(ArgumentInvalid, match=message):
        check()
