"""The directories of a pip installation: those for Salt's loader (entry point `salt.loader`) and the SLS files."""

from pathlib import Path

KINDS = ("beacons", "engines", "grains", "modules", "runners", "states")
# directory → a file that is there
_FILES = {"pillar": "baseimg.sls", "reactor": "baseimg.sls", "salt": "baseimg/init.sls"}


def loader_dirs() -> dict[str, list[str]]:
    """Return the existing directories by loader kind."""
    core = Path(__file__).resolve().parent
    installed = core / "_loader"
    # in a checkout and in an editable installation, the loader files are next to `_utils`
    checkout = core.parent.parent
    directories = {kind: installed / kind if installed.is_dir() else checkout / f"_{kind}" for kind in KINDS}
    return {kind: [str(path)] for kind, path in directories.items() if path.is_dir()}


def paths() -> dict[str, str]:
    """
    Return the directories of the SLS files, the example pillar and the reactors of this installation.

    Returns:
        ``salt``: a file root with the SLS of ``baseimg`` and ``orch``; ``pillar``: an example of each key; ``reactor``:
        the reactors. Empty for a core that Salt's file server has copied, which copies Python files only.
    """
    core = Path(__file__).resolve().parent
    home = core / "_files" if (core / "_files").is_dir() else core.parent.parent
    return {name: str(home / name) for name, file in _FILES.items() if (home / name / file).is_file()}
