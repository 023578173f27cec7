"""Where Salt's loader finds our files when the suite is installed with pip (entry point `salt.loader`)."""

from pathlib import Path

KINDS = ("beacons", "grains", "modules", "runners", "states")


def loader_dirs() -> dict[str, list[str]]:
    """Loader kind → directories, only those that exist."""
    core = Path(__file__).resolve().parent
    installed = core / "_loader"
    # In a checkout, or installed from one as editable, the files are beside `_utils`.
    checkout = core.parent.parent
    found = {kind: installed / kind if installed.is_dir() else checkout / f"_{kind}" for kind in KINDS}
    return {kind: [str(path)] for kind, path in found.items() if path.is_dir()}
