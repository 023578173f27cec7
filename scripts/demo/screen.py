"""The output of the demo, and the commands that it shows and runs."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

_MIN_WIDTH, _MAX_WIDTH = 60, 100
_BOLD, _DIM, _CYAN, _GREEN = "1", "2", "36", "32"


class DemoError(Exception):
    """A step did not show the expected result."""


def expect(actual: object, expected: object, what: str) -> None:
    if actual != expected:
        raise DemoError(f"{what}: expected {expected!r}, found {actual!r}")


class Screen:
    """Prints steps: a headline, a reason, the command as an operator types it, its result."""

    def __init__(self) -> None:
        self.width = max(_MIN_WIDTH, min(shutil.get_terminal_size().columns, _MAX_WIDTH))
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._steps = 0

    def title(self, text: str) -> None:
        self._print(text, _BOLD)

    def step(self, headline: str, why: str) -> None:
        self._steps += 1
        self._print(f"\n{self._steps}. {headline}", _BOLD)
        self.note(why)

    def note(self, text: str) -> None:
        self._print(self._wrapped(text, "   ", "   "), _DIM)

    def command(self, text: str) -> None:
        self._print(self._wrapped(text, "   $ ", "       "), _CYAN)

    def result(self, *lines: str) -> None:
        for line in lines:
            self._print(self._wrapped(line, "     ", "     "), _GREEN)

    def block(self, text: str) -> None:
        self._print(textwrap.indent(text, "     "))

    def end(self, text: str) -> None:
        self._print("\n" + self._wrapped(text, "", ""), _BOLD)

    def _wrapped(self, text: str, first: str, rest: str) -> str:
        return textwrap.fill(
            text,
            self.width,
            initial_indent=first,
            subsequent_indent=rest,
            break_long_words=False,
            break_on_hyphens=False,
        )

    def _print(self, text: str, style: str = "") -> None:
        print(f"\033[{style}m{text}\033[0m" if style and self._colour else text, flush=True)


class Shell:
    """Runs commands with the demo's environment, and shows them as an operator types them."""

    def __init__(self, screen: Screen, directory: str, environment: Mapping[str, str]) -> None:
        self._screen, self._directory = screen, directory
        self._environment = dict(environment)

    def run(self, *words: str, is_visible: bool = True) -> str:
        """Return the output of a command; raise :class:`DemoError` if it fails."""
        if is_visible:
            self._screen.command(shlex.join(words))
        return self._succeeded(words)

    def line(self, text: str) -> str:
        """Run a line of shell, and return its output."""
        self._screen.command(text)
        return self._succeeded(("sh", "-c", text))

    def refused(self, *words: str) -> str:
        """Return the error of a command that must fail."""
        self._screen.command(shlex.join(words))
        process = self._done(words)
        if not process.returncode:
            raise DemoError(f"{shlex.join(words)} should have been refused")
        return process.stderr.strip()

    def salt(self, *words: str) -> Any:
        """Return the result of ``salt-call --local`` as data."""
        self._screen.command(shlex.join(("salt-call", "--local", *words)))
        command = ("salt-call", "--local", "--retcode-passthrough", "--out=json", *words)
        output = self._succeeded(command)
        try:
            return json.loads(output)["local"]
        except (ValueError, KeyError) as error:
            raise DemoError(f"{shlex.join(words)} printed no result: {output[:500]}") from error

    def _succeeded(self, words: Sequence[str]) -> str:
        process = self._done(words)
        if process.returncode:
            output = (process.stderr or process.stdout).strip()
            raise DemoError(f"{shlex.join(words)} exited with {process.returncode}: {output}")
        return process.stdout.strip()

    def _done(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
