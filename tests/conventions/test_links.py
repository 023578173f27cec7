"""Every relative link and every path in the documents leads to an existing file and heading."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.support.sources import CORE, REPO, tracked

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_BLOCK = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
NAMED_DOCUMENT = re.compile(r"(?<![\w/.-])docs/[\w/-]+(?:\.md|\.png)?")
NAMED_CODE = re.compile(r"`((?:disk|engine|linux|model|ops|registry|report|rollouts?)/[\w/]+\.py)")
NAMED_FILE = re.compile(r"`((?:bench|reactor|requirements|scripts|tests)/[\w/.-]+|salt/[\w/]+\.sls)")
TEXT_FILES = (".md", ".py", ".sh", ".sls", ".cfg", ".toml")


def documents(*suffixes: str) -> list[Path]:
    """Return the repository's files with these suffixes, without measurement results."""
    paths = [path for path in tracked() if path.suffix in suffixes and not path.is_symlink()]
    return [path for path in paths if "results" not in path.parts]


def by_file(broken: Callable[[Path], list[str]], paths: list[Path]) -> dict[str, list[str]]:
    """Return what is broken in each file that has something broken."""
    return {str(path.relative_to(REPO)): names for path in paths if (names := broken(path))}


def anchors(page: str) -> set[str]:
    """Return the fragments of a page's headings as GitHub makes them: a repeated heading gets a number."""
    counts: Counter[str] = Counter()
    fragments = set()
    for heading in re.findall(r"^#+ +(.+)$", CODE_BLOCK.sub("", page), re.MULTILINE):
        fragment = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        fragments.add(f"{fragment}-{counts[fragment]}" if counts[fragment] else fragment)
        counts[fragment] += 1
    return fragments


def broken_links(document: Path) -> list[str]:
    """Return the relative links of a Markdown file whose targets do not exist."""
    broken = []
    for link in LINK.findall(CODE_BLOCK.sub("", document.read_text())):
        path, _, fragment = link.partition("#")
        if "://" in path:
            continue
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (fragment and fragment not in anchors(target.read_text())):
            broken.append(link)
    return broken


def test_links_resolve() -> None:
    assert by_file(broken_links, documents(".md")) == {}


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A `code`, and more\n# Twice\n# Twice\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    good = ["there.md", "there.md#a-code-and-more", "there.md#twice-1", "#own", "https://example.com/x"]
    bad = ["gone.md", "there.md#twice-2", "there.md#no-heading", "#other"]
    page.write_text("# Own\n" + "\n".join(f"[text]({link})" for link in good + bad))
    assert broken_links(page) == bad


def missing_documents(path: Path) -> list[str]:
    """Return the documents that a file names and that do not exist."""
    return [name for name in sorted(set(NAMED_DOCUMENT.findall(path.read_text()))) if not (REPO / name).exists()]


def missing_files(document: Path) -> list[str]:
    """Return the files that a document names and that neither the core nor the repository has."""
    text = document.read_text()
    code = [name for name in NAMED_CODE.findall(text) if not (CORE / name).exists()]
    return code + [name for name in NAMED_FILE.findall(text) if not (REPO / name).exists()]


def test_named_documents_exist() -> None:
    """Hints, docstrings and comments name documents by their path in the repository."""
    paths = [path for path in documents(*TEXT_FILES) if path != Path(__file__)]
    assert by_file(missing_documents, paths) == {}


def test_named_files_exist() -> None:
    """Documents name files of the repository, and files of the core below ``_utils/baseimg_core``."""
    assert by_file(missing_files, documents(".md")) == {}


def test_the_index_lists_every_document() -> None:
    index = REPO / "docs/README.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(index.read_text())}
    pages = {path for path in tracked() if path.suffix == ".md" and path.is_relative_to(REPO / "docs")}
    decisions = {path for path in pages if path.parent.name == "adr" and path.name != "README.md"}
    assert pages - decisions - listed - {index} == set()
