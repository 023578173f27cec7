"""
The command ``baseimg``, for machines without Salt: build, compare, inspect, judge, sign and push.

It has the operations of the Salt module, with the same words and error codes. It changes no node. Exit codes are in
docs/operating/pipelines.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from . import __version__
from .engine import detect
from .engine.images.blobs import Blobs
from .engine.images.store import ImageSources
from .errors import ArgumentInvalid, BaseimgError
from .linux import output
from .linux.files import make_directories
from .linux.oserrors import translate_os_errors
from .linux.scratch import scratch_directory
from .model import summary
from .model.images import source as image_source
from .model.impact import junit
from .model.policy import pillar, reference
from .ops import build as ops_build
from .ops import judge as ops_judge
from .ops.judgement import Attacher

ERROR = 16  # exit code of an operation that failed; argparse uses 2 for a wrong command line
_PROGRESS_SECONDS = 0.2
_BAR = 30  # characters of the progress bar
_SOURCES = "images: a reference of the engine, docker-archive:FILE[:REF], oci:DIRECTORY[:REF], oci-archive:FILE[:REF], "
_SOURCES += "docker://HOST/NAME:TAG or docker://HOST/NAME@DIGEST"

Result = tuple[dict[str, Any], Sequence[str], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command and return its exit code.

    Args:
        arguments: The command line without the program; default: that of this process.
    """
    given = _parsed(arguments)
    run: Callable[[argparse.Namespace], Result] = given.run
    try:
        with translate_os_errors("a file of this machine", "use"):
            result, lines, code = run(given)
    except BaseimgError as exc:
        _clear()
        if given.json:
            print(json.dumps({"error": exc.as_dict()}, indent=2))
        else:
            print(f"baseimg: {exc}", file=sys.stderr)
        return ERROR
    _clear()
    print(json.dumps(result, indent=2) if given.json else "\n".join(lines))
    return code


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line. argparse takes images before options only."""
    parser = _parser()
    given, rest = parser.parse_known_args(arguments)
    if rest and not ("images" in given and all(not word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        given.images += rest
    return given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="baseimg", description="Build, judge, sign and push bundles without Salt.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    images = argparse.ArgumentParser(add_help=False)
    images.add_argument("--cache", metavar="DIR", help="keep layers of registries there, up to 10 GiB")
    images.add_argument("--platform", metavar="OS/ARCH", help="platform of images in an index (default: this machine)")
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("source", metavar="SOURCE", help="the old image")
    both.add_argument("target", metavar="TARGET", help="the new image")

    build = _command(
        commands, "build", _build, "build a bundle from two images",
        "baseimg build oci:old oci:new base.tar --reference corp/base:12.0 --version 12.1", [images, both],
    )  # fmt: skip
    build.add_argument("bundle", metavar="BUNDLE", help="the file to write")
    build.add_argument("--name", "--version", dest="version", metavar="VERSION", help="version of the target")
    build.add_argument("--reference", metavar="REF", help="name of the source on nodes")
    build.add_argument("--compression", choices=("zstd", "gzip"), default="zstd")
    build.add_argument("--delta", choices=("only", "both", "auto"))
    build.add_argument("--key", metavar="FILE", help="private key to sign with")
    build.add_argument("--test", action="store_true", help="compare only, write nothing")

    example = "baseimg diff docker://registry.corp/base:12.0 docker://registry.corp/base:12.1"
    diff = _command(commands, "diff", _diff, "compare what two images show", example, [images, both])
    diff.add_argument("--full", action="store_true", help="with --json: every change")

    inspect = _command(commands, "inspect", _inspect, "show the manifest of a bundle", "baseimg inspect base.tar", [])
    inspect.add_argument("bundle", metavar="BUNDLE")
    inspect.add_argument("--verify", action="store_true", help="check every digest first")
    _add_judge(commands, images)
    _add_sign_and_push(commands)
    return parser


def _add_judge(commands: Any, images: argparse.ArgumentParser) -> None:
    example = "baseimg judge base.tar docker://registry.corp/app:1 --list apps.txt --junit judge.xml"
    judge = _command(commands, "judge", _judge, "judge which images a bundle breaks", example, [images])
    judge.add_argument("bundle", metavar="BUNDLE", help="a file, or docker://HOST/NAME:TAG")
    judge.add_argument("images", metavar="IMAGE", nargs="*")
    judge.add_argument("--list", metavar="FILE", help="a file with one image a line; # begins a comment")
    judge.add_argument("--accept", metavar="PATTERN", action="append", default=[], help="images that may fail")
    judge.add_argument("--junit", metavar="FILE", help="write JUnit XML")
    judge.add_argument("--attach", action="store_true", help="attach the result to the bundle, for plans of rollouts")
    judge.add_argument("--key", metavar="FILE", help="private key to sign the attached result with")


def _add_sign_and_push(commands: Any) -> None:
    sign = _command(commands, "sign", _sign, "sign a bundle", "baseimg sign base.tar --key release.key", [])
    sign.add_argument("bundle", metavar="BUNDLE")
    sign.add_argument("--key", metavar="FILE", required=True, help="private key in OpenSSH's format")
    example = "baseimg push base.tar registry.corp/baseimg/base:12.1"
    push = _command(commands, "push", _push, "push a bundle and its signature to a registry", example, [])
    push.add_argument("bundle", metavar="BUNDLE")
    push.add_argument("destination", metavar="HOST/NAME:TAG")
    for command in (sign, push):
        command.add_argument("--test", action="store_true", help="only report whether anything would change")


def _command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], Result],
    about: str,
    example: str,
    parents: Sequence[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    text = f"example:\n  {example}\n" + (f"\n{_SOURCES}\n" if parents else "")
    form = argparse.RawDescriptionHelpFormatter
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about, epilog=text, formatter_class=form, parents=list(parents)
    )
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    parser.set_defaults(run=run)
    return parser


@contextlib.contextmanager
def _images(given: argparse.Namespace) -> Iterator[ImageSources]:
    def engine() -> Any:
        return detect.connect(detect.declared(None, os.environ.get("DOCKER_HOST", "")))

    if given.cache:
        with translate_os_errors(given.cache):
            make_directories(given.cache)
    platform = image_source.parse_platform(given.platform)
    with ImageSources(engine, _connect, platform, cache=given.cache) as opened:
        yield opened


def _connect(source: image_source.ImageSource, directory: str, keep: bool) -> tuple[Blobs, bytes]:
    from .registry import images

    return images.connect(source, directory, keep, {}, _progress)


def _build(given: argparse.Namespace) -> Result:
    with _images(given) as images:
        result = ops_build.build(
            images, given.source, given.target, given.bundle, given.version, given.compression, given.test, _progress,
            given.key, given.delta, reference=given.reference,
        )  # fmt: skip
    sides = f"{result['source']['reference']} -> {result['target']['reference']} ({result['platform']})"
    lines = [sides, _counted(result["changes"])]
    if not given.test:
        lines.append(f"{given.bundle}: {result['size'] / 1e6:.1f} MB, {result['hash']}")
    return result, lines, 0


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def _diff(given: argparse.Namespace) -> Result:
    with _images(given) as images:
        whole = ops_build.diff(images, given.source, given.target, _progress)
    short = summary.of_diff(whole)
    lines = [f"{whole['source']} -> {whole['target']} ({whole['platform']})", _counted(whole["counts"])]
    lines += [*short["biggest"], *(f"{name}: {old!r} -> {new!r}" for name, (old, new) in whole["config"].items())]
    return whole if given.full else short, lines, 0


def _inspect(given: argparse.Namespace) -> Result:
    result = ops_build.inspect(given.bundle, given.verify)
    sides = f"{result['source']['reference']} -> {result['target']['reference']}"
    verified = ", every digest is right" if given.verify else ""
    return result, [sides, f"{result['size'] / 1e6:.1f} MB, {result['hash']}{verified}"], 0


def _judge(given: argparse.Namespace) -> Result:
    names = [*given.images, *(_listed(given.list) if given.list else ())]
    if given.junit:
        output.check_replaceable(given.junit)
    attacher = Attacher.with_key(pillar.signing_key(os.path.abspath(given.key), "--key") if given.key else None)
    with _images(given) as images, _fetched(given.bundle) as bundle:
        result = ops_judge.judge(images, bundle.path, names, given.accept, _progress, given.cache)
        result["bundle"] = bundle.name
        if given.attach:
            bundle.attach(attacher, result)
    if given.junit:
        output.save(given.junit, junit.document(result).encode())
    return result, list(ops_judge.lines(result)), result["retcode"]


@dataclass(frozen=True)
class _Bundle:
    """A bundle to judge for."""

    #: The file.
    path: str
    #: Its name, as given.
    name: str
    #: Attaches a judgement to it.
    attach: Callable[[Attacher, dict[str, Any]], None]


@contextlib.contextmanager
def _fetched(name: str) -> Iterator[_Bundle]:
    if not reference.is_registry(name):
        yield _Bundle(name, name, lambda attacher, result: attacher.write(name, result))
        return
    from .registry import pull, push

    source = pillar.bundle_source(name, None, "BUNDLE").source
    with scratch_directory() as home:
        with contextlib.closing(pull.BundleCache(home, {}, _progress)) as cache:
            pinned = cache.resolve(source)  # a tag may move meanwhile
            path = cache.fetch(pinned)

        def attach(attacher: Attacher, result: dict[str, Any]) -> None:
            push.attach(reference.parse(pinned), attacher.attachment(result), {})

        yield _Bundle(path, name, attach)


def _listed(path: str) -> list[str]:
    with translate_os_errors(path, "read"), open(path, encoding="utf-8") as file:
        names = [line.partition("#")[0].strip() for line in file]
    if not any(names):
        raise ArgumentInvalid(f"{path} names no image", "write one image a line")
    return [name for name in names if name]


def _sign(given: argparse.Namespace) -> Result:
    result = ops_build.sign(given.bundle, pillar.signing_key(os.path.abspath(given.key), "--key"), given.test)
    return result, [f"{result['signature']}: signed with {result['key']}"], 0


def _push(given: argparse.Namespace) -> Result:
    from .registry import push

    place = pillar.push_destination(given.destination)
    result = push.push(given.bundle, place, {}, given.test, _progress)
    return result, [f"source: {result['source']}", f"hash: {result['hash']}"], 0


_progress_times = [0.0]


def _progress(step: str, done: int, total: int) -> None:
    """Show a line on a terminal, five times a second."""
    if sys.stderr.isatty() and time.monotonic() - _progress_times[0] > _PROGRESS_SECONDS:
        _progress_times[0] = time.monotonic()
        bar = "#" * (_BAR * done // total) if total else ""
        share = f"[{bar:<{_BAR}}] {100 * done // total:3d} %" if total else f"{done} paths"
        sys.stderr.write(f"\r\033[K{step} {share}")
        sys.stderr.flush()


def _clear() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
