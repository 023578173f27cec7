"""
Versions of Java: classes that are too new for one, and options that stop one.

JVM specification 4.1 (class file versions). Options were tried with OpenJDK 17; the releases that reject them are those
of the release notes.
"""

from __future__ import annotations

import re

#: The name of the file in a Java home that holds its version.
RELEASE = b"release"
#: The ends of the names of archives of classes.
ARCHIVES = (b".jar", b".war", b".ear")
_VERSION = re.compile(rb'^JAVA_VERSION="?(?:1\.)?(\d+)', re.MULTILINE)
_CLASS = b"\xca\xfe\xba\xbe"
_FIRST = 44  # class files of Java 1 have version 45
_LOGGING = (
    "PrintGCDateStamps", "PrintGCTimeStamps", "PrintTenuringDistribution", "PrintGCApplicationStoppedTime",
    "PrintGCApplicationConcurrentTime", "PrintHeapAtGC", "PrintAdaptiveSizePolicy", "PrintReferenceGC",
    "PrintPromotionFailure", "PrintGCCause", "UseGCLogFileRotation", "NumberOfGCLogFiles", "GCLogFileSize",
)  # fmt: skip
# by the first version of Java that does not start with them
_OPTIONS = {
    9: (*(f"-XX:[+-]?{name}" for name in _LOGGING), "-Xincgc", r"-Djava\.ext\.dirs", r"-Djava\.endorsed\.dirs"),
    10: ("-d64", "-d32"),
    11: ("-XX:[+-]UseParNewGC", "-XX:[+-]UseCGroupMemoryLimitForHeap", "-XX:[+-]UnlockCommercialFeatures",
         r"--add-modules[ =]java\.(?:xml\.bind|se\.ee|activation|corba|transaction|xml\.ws)"),
    13: ("-XX:[+-]AggressiveOpts",),
    15: ("-XX:[+-]UseConcMarkSweepGC", r"-XX:[+-]?CMS\w+", "-XX:[+-]UseCMS\\w+"),
    16: ("-XX:[+-]UseParallelOldGC",),
    17: ("-XX:MaxPermSize", "-XX:PermSize"),
}  # fmt: skip
_REJECTED = [(since, re.compile(rf"(?<![\w.-])(?:{'|'.join(names)})(?![\w.])")) for since, names in _OPTIONS.items()]
_TOLERANT = "-XX:+IgnoreUnrecognizedVMOptions"


def version(release: bytes) -> int:
    """Return the version in the content of a Java home's ``release``, such as 17; 0 if it has none."""
    match = _VERSION.search(release)
    return int(match[1]) if match else 0


def class_version(head: bytes) -> int:
    """Return the version of Java that a class needs by its first 8 bytes; 0 for other files."""
    return int.from_bytes(head[6:8], "big") - _FIRST if head[:4] == _CLASS else 0


def rejected_options(text: str, old: int, new: int) -> list[str]:
    """
    Return the options that one version of Java accepts and a newer one does not start with.

    Args:
        text: Options, or a script that contains them.
        old: The old version of Java.
        new: The new version.
    """
    if _TOLERANT in text:
        return []
    return [match[0] for since, pattern in _REJECTED if old < since <= new for match in pattern.finditer(text)]
