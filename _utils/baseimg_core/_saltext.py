"""Directories for Salt's loader in a pip installation (entry point `salt.loader`)."""

from pathlib import Path

KINDS = ("beacons", "grains", "modules", "runners", "states")


def loader_dirs() -> dict[str, list[str]]:
    """Return the existing directories by loader kind."""
    core = Path(__file__).resolve().parent
    installed = core / "_loader"
    # in a checkout and in an editable installation, the loader files are next to `_utils`
    checkout = core.parent.parent
    directories = {kind: installed / kind if installed.is_dir() else checkout / f"_{kind}" for kind in KINDS}
    return {kind: [str(path)] for kind, path in directories.items() if path.is_dir()}
