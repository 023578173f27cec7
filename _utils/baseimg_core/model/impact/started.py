"""
Programs that an image starts through entry point, command and health check, also indirectly.

Shell text is parsed by simple rules: the first word of each command, without expansion. Words that no rule covers are
skipped. A false "missing" is worse than a missed program.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from .config import ProcessConfig

_SHELLS = {"sh", "bash", "dash", "ash", "busybox"}
# programs that start the program named in their arguments
_WRAPPERS = {
    "env", "exec", "tini", "dumb-init", "catatonit", "gosu", "su-exec", "nice", "nohup", "setpriv", "setsid", "timeout",
    "chroot", "command", "time", "stdbuf", "ionice", "docker-entrypoint.sh", "entrypoint.sh",
}  # fmt: skip
# wrappers whose first argument is not a program but a user or a duration
_SKIPS_ONE = {"gosu", "su-exec", "timeout", "chroot"}
_KEYWORDS = {"if", "then", "else", "elif", "do", "while", "until", "!", "{", "(", "time"}
_SEPARATORS = {";", "&&", "||", "|", "&", "\n", "(", ")", ";;", "|&"}
_BUILTINS = {
    ".", ":", "[", "[[", "alias", "break", "case", "cd", "continue", "declare", "done", "echo", "esac", "eval", "exit",
    "export", "false", "fi", "for", "function", "getopts", "hash", "in", "local", "printf", "pwd", "read", "readonly",
    "return", "select", "set", "shift", "source", "test", "times", "trap", "true", "type", "ulimit", "umask", "unset",
    "wait", "}", ")",
}  # fmt: skip
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_PLAIN = re.compile(r"[\w./+@:,~-]+", re.ASCII)
_PATH = re.compile(rb"(?:(?<![\w.}/$-])|(?<=:-)|(?<=file://))/(?:[\w.+@-]+/)*[\w.+@-]+")
_COMMENTS = (b"#", b";", b"//", b"*")
_CRON = re.compile(rb"\*(?:/\d+)?[ \t]+[\d*]")
_QUOTED = re.compile(
    rb"\b(?:system|[Pp]open|exec\w*|spawn\w*|run|call|check_call|check_output|getoutput|Command|which)"
    rb"[ \t]*\([ \t]*[\[(]?[ \t]*[\"']([\w.+-]+)(?=[\"' ])"
)
_LIBRARY = re.compile(rb"(?<![\w./+-])[\w+-]+\.so(?:\.\w+)*(?![\w/-])")
_LITERAL_PATH = re.compile(rb"/[\w.+@-]+(?:/[\w.+@-]+)+")
_LITERAL_LIBRARY = re.compile(rb"\.so(?:\.\w+)*\0")
_PLAIN_NAME = re.compile(rb"[\w.+-]+")
_MAX_NAME = 255
_SOURCED = re.compile(rb"^[ \t]*(?:\.|source)[ \t]+[\"']?([\w./+-]+)", re.MULTILINE)


def commands(config: ProcessConfig) -> list[tuple[str, ...]]:
    """
    Return the commands that an image runs.

    These are the entry point with the command, the command alone (an entry point may execute it), and the health check.
    """
    started = [(*config.entrypoint, *config.command)]
    if config.entrypoint and config.command:
        started.append(config.command)
    if config.health[:1] == ("CMD",):
        started.append(config.health[1:])
    elif config.health[:1] == ("CMD-SHELL",):
        started.append(("/bin/sh", "-c", *config.health[1:2]))
    return [command for command in started if command]


def programs(command: Sequence[str]) -> list[str]:
    """
    List the programs that a command starts.

    Args:
        command: The words of a command.

    Returns:
        Names and paths, the command's program first.
    """
    return list(dict.fromkeys(_programs(list(command))))


def _programs(words: list[str]) -> Iterator[str]:
    while words:
        program = words.pop(0)
        if not _PLAIN.fullmatch(program):
            return
        name = program.rpartition("/")[2]
        if program not in ("exec", "command", "time"):
            yield program
        if name in _SHELLS:
            yield from _of_shell(words)
            return
        if name not in _WRAPPERS:
            return
        skip = name in _SKIPS_ONE
        while words and (words[0].startswith("-") or _ASSIGNMENT.match(words[0]) or skip):
            skip = skip and (words[0].startswith("-") or bool(_ASSIGNMENT.match(words[0])))
            words.pop(0)


def _of_shell(words: list[str]) -> Iterator[str]:
    for number, word in enumerate(words):
        if word.startswith("-") and "c" in word and not word.startswith("--"):
            yield from shell_programs(words[number + 1] if number + 1 < len(words) else "")
            return
        if not word.startswith("-"):  # a script, or a busybox applet
            yield from _programs(words[number:])
            return


def shell_programs(text: str) -> list[str]:
    """List the programs that shell text starts, without duplicates."""
    programs: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.commenters = "#"
        try:
            words = list(lexer)
        except ValueError:  # a quotation that continues on the next line
            continue
        programs += _of_line(words)
    return list(dict.fromkeys(programs))


def _of_line(words: list[str]) -> Iterator[str]:
    command: list[str] = []
    for word in [*words, ";"]:
        if word in _SEPARATORS:
            while command and (command[0] in _KEYWORDS or _ASSIGNMENT.match(command[0])):
                command.pop(0)
            if command and command[0] not in _BUILTINS:
                yield from _programs(command)
            command = []
        else:
            command.append(word)


def is_shell(program: str) -> bool:
    """True if a program is a shell, which runs a file without a ``#!`` line as its script."""
    return program.rpartition("/")[2] in _SHELLS


def arguments(command: Sequence[str]) -> list[str]:
    """Return a command's arguments that may be paths: plain words that are no options."""
    return [word for word in command[1:] if not word.startswith("-") and _PLAIN.fullmatch(word)]


def paths_in_arguments(command: Sequence[str]) -> set[bytes]:
    """Return the absolute paths inside a command's other arguments: options with a value, and program text."""
    paths: set[bytes] = set()
    for word in command[1:]:
        if word.startswith("-") or not _PLAIN.fullmatch(word):
            paths |= paths_in(word.encode("utf-8", "surrogateescape"))
    return paths


def paths_in(text: bytes) -> set[bytes]:
    """Return the absolute paths in a script or a configuration file, comments excluded."""
    return {match.rstrip(b".") for line in _lines(text) for match in _PATH.findall(line)}


def names_in(text: bytes) -> set[bytes]:
    """Return the programs that a script starts by name through a function such as ``subprocess.run`` or ``system``."""
    return {name for line in _lines(text) for name in _QUOTED.findall(line)}


def libraries_in(text: bytes) -> set[bytes]:
    """Return the names of libraries, without a directory, in a script or a configuration file."""
    return {name for line in _lines(text) for name in _LIBRARY.findall(line)}


def literal_paths(content: bytes) -> set[bytes]:
    """Return the absolute paths of two components or more in a compiled program."""
    return set(_LITERAL_PATH.findall(content))


def literal_libraries(content: bytes) -> set[bytes]:
    """Return the names of libraries, without a directory, that a compiled program has as C strings."""
    names = set()
    for match in _LITERAL_LIBRARY.finditer(content):
        start = content.rfind(b"\0", max(0, match.start() - _MAX_NAME), match.start()) + 1
        name = content[start : match.end() - 1]
        if start and _PLAIN_NAME.fullmatch(name):
            names.add(name)
    return names


def sourced(text: bytes) -> list[bytes]:
    """Return the files that a shell script reads with ``.`` or ``source``, unless a variable names them."""
    return _SOURCED.findall(text)


def _lines(text: bytes) -> Iterator[bytes]:
    """Yield the lines that are no comment; a crontab's ``* * * * *`` is none."""
    for line in text.splitlines():
        stripped = line.lstrip()
        if not stripped.startswith(_COMMENTS) or line.startswith(b"#!") or _CRON.match(stripped):
            yield line
