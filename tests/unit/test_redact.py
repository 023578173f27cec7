"""Secrets in URLs never leave the core."""

from __future__ import annotations

import logging

import pytest

from baseimg_core.errors import BundleUnavailable
from baseimg_core.redact import redact, redact_url, redacted_logs

SIGNED = "X-Amz-Credential=AKIA%2F2026&X-Amz-Signature=5ignature"


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        ("cannot fetch https://nodes:s3cret@files.corp/b.tar: 404", ["s3cret"]),
        ("cannot fetch https://t0kenword@files.corp/b.tar", ["t0kenword"]),
        ("cannot fetch http://nodes:s3cret@files.corp:8080/b.tar?a=b", ["s3cret", "a=b"]),
        ("cannot fetch ftp://nodes:s3cret@files.corp/b.tar", ["s3cret"]),
        ("cannot fetch swift://nodes:s3cret@files/b.tar", ["s3cret"]),
        ("cannot fetch s3://AKIA:wJal/rXUt+n@bucket/b.tar", ["wJal/rXUt+n", "wJal"]),
        ("cannot fetch docker://nodes:s3cret@registry.corp:5000/base@sha256:12", ["s3cret"]),
        (f"cannot fetch https://store.corp/b.tar?{SIGNED}", ["5ignature", "AKIA"]),
        (f"cannot read /var/cache/salt/minion/extrn_files/base/store.corp/b.tar-{SIGNED}", ["5ignature", "AKIA"]),
        ("Max retries exceeded with url: /b.tar?access_token=s3cret", ["s3cret"]),
    ],
)
def test_hidden_in_errors(text: str, secrets: list[str]) -> None:
    error = BundleUnavailable(text, hint=text)
    for redacted in (str(error), repr(error), *error.as_dict().values(), *map(str, error.args)):
        assert [secret for secret in secrets if secret in redacted] == []
    assert "cannot" not in text or "cannot" in error.message


@pytest.mark.parametrize(
    "text",
    [
        "docker://registry.corp:5000/baseimg/base@sha256:f6f3",
        "cannot fetch salt://baseimg/b.tar?saltenv=prod from the environment prod",
        "https://files.corp:8080/baseimg/b.tar: 404",
        "corp/base:12.0: 12.0 -> 12.1 (3 images). Restart to pick it up: shop, billing.",
        "mail release@corp about it",
    ],
)
def test_everything_else_stays(text: str) -> None:
    assert redact(text) == text


def test_what_others_say_of_a_url() -> None:
    url = f"https://nodes:s3cret@files.corp/b.tar?{SIGNED}"
    said = (
        "HTTP 403 reading /b.tar?X-Amz-Credential=AKIA%2F2026 as nodes:s3cret (password s3cret, AKIA/2026, 5ignature)"
    )
    assert redact_url(said, url) == "HTTP 403 reading /b.tar?X-Amz-Credential=*** as *** (password ***, ***, ***)"


def test_hidden_in_logs_of_other_programs(caplog: pytest.LogCaptureFixture) -> None:
    """Salt's file client logs the URL of a failed fetch at level ERROR."""
    url = "https://deploy:s3cr3t-w0rd@store.corp/b.tar?X-Amz-Signature=5ignature"
    log = logging.getLogger("salt.loaded.int.module.cp")
    with redacted_logs(url):
        log.error("Unable to cache file '%s' from saltenv '%s'.", url, "base")
        log.error("GET /b.tar?X-Amz-Signature=5ignature")
        log.error("failed", exc_info=OSError(url))
    log.error("plain %s", "text")
    assert "Unable to cache file 'https://***@store.corp/b.tar" in caplog.text
    assert "OSError" in caplog.text
    assert "plain text" in caplog.text
    assert [secret for secret in ("s3cr3t-w0rd", "5ignature") if secret in caplog.text] == []
    assert all(not handler.filters for handler in logging.root.handlers)
