"""
Language runtimes: modules that belong to one version of an interpreter.

Directories and file names identify these modules. Pure modules in a directory without a version
(``python3/dist-packages``, ``/usr/share/perl5``) belong to every version. Compiled modules of Node belong to one ABI
(``NODE_MODULE_VERSION``), unless they use Node-API; their names need not have its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Runtime:
    """A language runtime at one version, such as Python 3.11."""

    #: ``python``, ``perl``, ``ruby``, ``php`` or ``node``.
    language: str
    #: The version in the paths of its modules; of Node, the ABI.
    version: str


#: The headers in Node's own archives, which official images keep: they define the ABI.
NODE_HEADERS = (b"usr/local/include/node/node_version.h", b"usr/include/node/node_version.h")


#: Paths whose presence shows that a base provides a runtime.
_MARKERS = [
    ("python", re.compile(rb"usr/(?:local/)?bin/python(\d+\.\d+)")),
    ("perl", re.compile(rb"usr/(?:share|lib(?:/[^/]+)?)/perl/(\d+\.\d+)(?:\.\d+)?")),
    # Debian's perl-base has no directory with a version
    ("perl", re.compile(rb"usr/(?:local/)?bin/perl(\d+\.\d+)\.\d+")),
    ("ruby", re.compile(rb"usr/(?:local/)?lib/ruby/(\d+\.\d+\.\d+)")),
    ("php", re.compile(rb"usr/lib/php/(20\d{6})")),
    ("php", re.compile(rb"usr/local/lib/php/extensions/[^/]*-(20\d{6})")),  # PHP's own images
    ("node", re.compile(rb"usr/lib/(?:[^/]+/)?libnode\.so\.(\d+)")),
]
#: Paths of modules that belong to one version.
_MODULES = [
    ("python", re.compile(rb"(?:.*/)?lib/python(\d+\.\d+)/(?:site|dist)-packages")),
    ("python", re.compile(rb".*\.cpython-(\d)(\d+)-[^/]*\.so")),
    ("perl", re.compile(rb"usr/(?:local/)?(?:lib(?:/[^/]+)?/perl5?|share/perl)/(\d+\.\d+)(?:\.\d+)?")),
    (
        "ruby",
        re.compile(
            rb"(?:var/lib/gems|usr/(?:local/)?lib(?:/[^/]+)?/ruby/(?:gems|vendor_ruby|site_ruby))/(\d+\.\d+\.\d+)"
        ),
    ),
    # gems below BUNDLE_PATH, and compiled gems
    ("ruby", re.compile(rb"(?:.*/)?bundle/ruby/(\d+\.\d+\.\d+)")),
    ("ruby", re.compile(rb"(?:.*/)?extensions/[^/]+-linux[^/]*/(\d+\.\d+\.\d+)(?:-static)?")),
    ("php", re.compile(rb"usr/lib/php/(20\d{6})")),
    ("php", re.compile(rb"usr/local/lib/php/extensions/[^/]*-(20\d{6})")),
    # the names of prebuildify and of node-pre-gyp
    ("node", re.compile(rb".*[./]abi(\d+)\.[^/]*node")),
    ("node", re.compile(rb".*/node-v(\d+)-[^/]+/[^/]+\.node")),
]
_INTERPRETERS = re.compile(r"(python|perl|ruby|php|node)(?:js)?[\d.]*(?:-[\w.]+)?")
_NODE_VERSION = re.compile(rb"#define\s+NODE_MODULE_VERSION\s+(\d+)")
_NODE_ADDON = re.compile(rb"node_register_module_v(\d+)")
_NODE_API = (b"napi_register_module_v", b"napi_module_register")


def runtimes(paths: Iterable[bytes]) -> set[Runtime]:
    """Return the runtimes that a base with these paths provides."""
    languages = set()
    for path in paths:
        for language, pattern in _MARKERS:
            if match := pattern.fullmatch(path):
                languages.add(Runtime(language, match[1].decode()))
    return languages


def module_of(path: bytes) -> Runtime | None:
    """Return the runtime that a module directory or file belongs to; ``None`` for other paths."""
    for language, pattern in _MODULES:
        if match := pattern.fullmatch(path):
            return Runtime(language, ".".join(part.decode() for part in match.groups()))
    return None


def node_abi(header: bytes) -> str:
    """Return the ABI in the content of ``node_version.h``; empty if it has none."""
    match = _NODE_VERSION.search(header)
    return match[1].decode() if match else ""


def is_lost_addon(content: bytes, lost: Iterable[Runtime]) -> bool:
    """
    True if a compiled module of Node does not load after an ABI is lost.

    Args:
        content: The content of the ``.node`` file.
        lost: The lost runtimes.
    """
    abis = {runtime.version for runtime in lost if runtime.language == "node"}
    if own := _NODE_ADDON.search(content):
        return own[1].decode() in abis
    return bool(abis) and not any(name in content for name in _NODE_API)


def language_of(program: str) -> str:
    """Return the language of an interpreter; empty for other programs."""
    match = _INTERPRETERS.fullmatch(program.rpartition("/")[2])
    return match[1] if match else ""
