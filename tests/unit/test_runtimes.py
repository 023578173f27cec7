"""Language runtimes, recognised by the paths of interpreters and modules."""

from __future__ import annotations

import pytest

from baseimg_core.model.impact.runtimes import Runtime, language_of, module_of, runtimes


@pytest.mark.parametrize(
    ("path", "runtime"),
    [
        (b"usr/bin/python3.11", Runtime("python", "3.11")),
        (b"usr/share/perl/5.36.0", Runtime("perl", "5.36")),
        (b"usr/bin/perl5.36.0", Runtime("perl", "5.36")),  # Debian's perl-base
        (b"usr/lib/ruby/3.1.0", Runtime("ruby", "3.1.0")),
        (b"usr/lib/php/20220829", Runtime("php", "20220829")),
        (b"usr/bin/perl", None),
        (b"usr/bin/python3", None),
    ],
)
def test_the_runtime_of_a_base(path: bytes, runtime: Runtime | None) -> None:
    assert runtimes([path]) == ({runtime} if runtime else set())


@pytest.mark.parametrize(
    ("path", "runtime"),
    [
        (b"usr/local/lib/python3.11/site-packages", Runtime("python", "3.11")),
        (b"opt/app/lib/python3.11/site-packages", Runtime("python", "3.11")),
        (b"app/x.cpython-311-x86_64-linux-gnu.so", Runtime("python", "3.11")),
        (b"usr/lib/python3/dist-packages", None),
        (b"usr/lib/x86_64-linux-gnu/perl5/5.36", Runtime("perl", "5.36")),
        (b"usr/share/perl5", None),
        (b"var/lib/gems/3.1.0", Runtime("ruby", "3.1.0")),
        (b"usr/lib/php/20220829", Runtime("php", "20220829")),
    ],
)
def test_the_runtime_of_a_module(path: bytes, runtime: Runtime | None) -> None:
    assert module_of(path) == runtime


@pytest.mark.parametrize(
    ("program", "language"),
    [("/usr/bin/perl", "perl"), ("perl5.36.0", "perl"), ("python3", "python"), ("ruby3.1", "ruby"), ("sh", "")],
)
def test_the_language_of_a_program(program: str, language: str) -> None:
    assert language_of(program) == language
