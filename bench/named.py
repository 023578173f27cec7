"""What ``impaired`` names, tried over the old and the new base: does it really fail, and on the new one alone?"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from baseimg_core.disk.impact.elf import ElfInvalid, read_elf
from baseimg_core.model.impact.verdict import Reason, Verdict

LOADER = "/lib64/ld-linux-x86-64.so.2"
STATUS = Path("var/lib/dpkg/status")
SECONDS = 20
_MISSING = re.compile(r"(?:names|imports|to|points to) (\S+?),? which is missing")
_SYMBOL = re.compile(r"needs the symbol (\S+?),")
_UNMET = re.compile(
    r"^ (?:(?P<package>\S+?)(?::\w+)? :| +)(?: ?(?:Pre)?(?P<kind>Depends|Breaks|Conflicts):"
    r" (?P<name>\S+?)(?::\w+)?(?: |$))?",
    re.MULTILINE,
)
_ON = re.compile(r"^(?:(\S+) of the new base )?(needs|breaks|conflicts) (\S+)")
_IMPORTS = {
    ".py": "python3 -c 'import {}'",
    ".pl": "perl -e 'use {};'",
    ".pm": "perl -e 'use {};'",
    ".rb": "ruby -e 'require \"{}\"'",
    ".js": "node -e 'require(\"{}\")'",
}
_SEARCH = {
    "python": "import sys; print(*sys.path, sep=chr(10))",
    "perl": "print join(chr(10), @INC)",
    "ruby": "puts $LOAD_PATH, Gem.path",
}


@dataclass
class Tried:
    """The outcome for the reasons of one application."""

    #: Reasons that were tried.
    tried: int = 0
    #: Reasons whose subject does not fail on the new base alone.
    not_failing: list[str] = field(default_factory=list)
    #: Broken relations that apt finds and no reason names.
    missed: list[str] = field(default_factory=list)


def try_reasons(reasons: Sequence[Reason], roots: Sequence[Path], bases: Sequence[Path]) -> Tried:
    """
    Try what the impaired reasons of an application name.

    Args:
        reasons: The reasons of its judgement.
        roots: The roots of the application over the old and over the new base.
        bases: The trees of the old and of the new base.

    Returns:
        How many were tried, and which do not fail as the reasons say.
    """
    result = Tried()
    if not _succeeds(roots[1], "/bin/true"):  # a hidden tree: nothing starts there
        return result
    for reason in reasons:
        command = _command(reason, roots[0]) if reason.verdict is Verdict.IMPAIRED else ""
        if command:
            result.tried += 1
            before, after = (_succeeds(root, command) for root in roots)
            if not before or after:
                result.not_failing.append(f"{reason.code}: {reason.subject} {reason.text}: {before}, {after}")
    _relations(result, reasons, roots, bases)
    return result


def _command(reason: Reason, old: Path) -> str:
    """Return a shell command that succeeds unless the reason is right; empty if there is none."""
    path, missing = shlex.quote(f"/{reason.subject}"), _MISSING.search(reason.text)
    if reason.code == "missing-symbol" and (symbol := _SYMBOL.search(reason.text)):
        trace = f"LD_TRACE_LOADED_OBJECTS=1 LD_WARN=yes LD_BIND_NOW=yes {LOADER} {path}"
        return f"! {trace} 2>&1 | grep -q 'undefined symbol: {symbol[1]}'"
    if reason.code in ("missing-library", "missing-version", "stale-cache") and reason.text.startswith("needs"):
        if _is_program(old / reason.subject):
            return f"timeout {SECONDS} {path} --version; test $? != 127"
        return f"{LOADER} --list {path} > /tmp/listed 2>&1 && ! grep -q 'not found' /tmp/listed"
    if reason.code == "missing-library" and missing:
        return f"! LD_PRELOAD={missing[1]} /bin/true 2>&1 | grep -q 'cannot be preloaded'"
    if reason.code == "missing-module" and missing and (form := _IMPORTS.get(Path(reason.subject).suffix)):
        return form.format(missing[1])
    if reason.code in ("missing-path", "missing-target") and missing:
        return f"test -e {path if reason.code == 'missing-target' else shlex.quote(missing[1])}"
    language = reason.text.partition("modules for ")[2].partition(" ")[0]
    if reason.code == "runtime" and language in _SEARCH and not reason.subject.endswith(".so"):
        option = "c" if language == "python" else "e"
        program = "python3" if language == "python" else language
        places = f"{program} -{option} {shlex.quote(_SEARCH[language])} | xargs -n1 readlink -f"
        return f"{places} | grep -q $(readlink -f {path})"
    return ""


def _is_program(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            elf = read_elf(file)
    except (OSError, ElfInvalid):
        return False
    return bool(elf.interpreter) and ".so" not in path.name


def _succeeds(root: Path, command: str) -> bool:
    try:
        return _run(root, command).returncode == 0
    except subprocess.TimeoutExpired:
        return True


def _run(root: Path, command: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    return subprocess.run(
        ["chroot", str(root), "/bin/sh", "-c", command],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        timeout=3 * SECONDS, check=False,
    )  # fmt: skip


def _relations(result: Tried, reasons: Sequence[Reason], roots: Sequence[Path], bases: Sequence[Path]) -> None:
    """Compare the relations with what apt finds broken among the packages that the image really shows."""
    statuses = [root / STATUS for root in (roots[0], *bases)]
    if not all(status.exists() for status in statuses):
        return
    own, old, new = (dict(_stanzas(status)) for status in statuses)
    added = {name: stanza for name, stanza in own.items() if old.get(name) != stanza}
    before, after = (_unmet(root, {**base, **added}) for root, base in zip(roots, (old, new), strict=True))
    named = set()
    for reason in reasons:
        if reason.code == "relation" and (match := _ON.match(reason.text)):
            kind = {"needs": "Depends"}.get(match[2], match[2].capitalize())
            named.add((match[1] or reason.subject, kind, match[3].partition(":")[0]))
    # packages of the base alone are not judged
    names = {key.partition(":")[0] for key in added}
    broken = {each for each in after - before if each[0] in names or each[2] in names or each in named}
    result.tried += len(named)
    result.not_failing += [f"relation: {' '.join(each)}" for each in sorted(named - broken)]
    result.missed += [f"relation: {' '.join(each)}" for each in sorted(broken - named)]


def _stanzas(status: Path) -> Iterator[tuple[str, str]]:
    for stanza in status.read_text().strip().split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in stanza.splitlines() if not line.startswith(" "))
        if fields["Status"].endswith(" installed"):
            yield f"{fields['Package']}:{fields['Architecture']}", stanza


def _unmet(root: Path, packages: Mapping[str, str]) -> set[tuple[str, str, str]]:
    """Return the packages, kinds and names of the relations that apt finds broken among packages."""
    merged = root / "tmp/status"
    merged.write_text("\n\n".join(packages.values()) + "\n")
    options = "-o Dir::State::status=/tmp/status -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache="
    output = _run(root, f"apt-get check {options} 2>&1").stdout
    package, unmet = "", set()
    for match in _UNMET.finditer(output):
        package = match["package"] or package
        if match["kind"]:
            unmet.add((package, match["kind"], match["name"]))
    return unmet
