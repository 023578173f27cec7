"""The steps of the demo: a base with two applications, a fix for the base, and a rollback. Every result is checked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.support.engine import Engine

from .material import APPLICATIONS, BASE, NEWER, archive, images, saved_diff_ids
from .screen import Screen, Shell, expect

_REPO = Path(__file__).resolve().parents[2]
_BUNDLE = "baseimg/bundles/corp-base_12.0_12.1.tar"
_SHOP, _BILLING = APPLICATIONS
_PILLAR = """\
baseimg:
  bases:
    {base}:
      version: '12.1'
      bundles:
        '12.1':
          source: {source}
          hash: {digest}
"""


def tell(screen: Screen, engine: Engine, directory: Path) -> None:
    Story(screen, engine, directory).tell()


class Story:
    def __init__(self, screen: Screen, engine: Engine, directory: Path) -> None:
        self.screen, self.engine, self.directory = screen, engine, directory
        self.shell = Shell(screen, str(directory), _environment(engine, directory))
        self.images = images()

    def tell(self) -> None:
        self.prepare()
        self.before()
        bundle = self.build()
        self.declare(bundle)
        self.converge()
        self.running()
        self.save_refused()
        self.roll_back()
        self.save_works()

    def prepare(self) -> None:
        self.screen.title("baseimg: update the base of two applications without rebuilding or pulling them")
        self.screen.note(
            f"A private Docker {_version(self.engine)} in {self.directory}. {_SHOP} and {_BILLING} are "
            f"FROM {BASE}; {NEWER} has newer certificates."
        )
        _write_minion(self.directory)
        path = self.directory / "images.tar"
        path.write_bytes(archive(self.images))
        self.shell.run("docker", "load", "--quiet", "--input", str(path), is_visible=False)

    def before(self) -> None:
        self.screen.step("Before", "Each application image has the base that it was built on. One of them runs.")
        self.shell.run("docker", "run", "--detach", "--network=none", "--name=shop", _SHOP)
        self.process = self.main_process()
        self.version_in_new_container(_BILLING, "12.0")

    def build(self) -> dict[str, Any]:
        self.screen.step("Build the bundle", "A bundle is one file with the difference between the two versions.")
        bundle = self.shell.salt("baseimg.build", BASE, NEWER, f"srv/{_BUNDLE}")
        counts = bundle["changes"]
        self.screen.result(
            f"{counts['added']} path added, {counts['modified']} modified, {counts['removed']}"
            f" removed: {bundle['size'] / 1e3:.0f} kB of {len(self.images[1].layers[0]) / 1e6:.0f} MB"
        )
        expect(counts, {"added": 1, "modified": 2, "removed": 1}, "the bundle's changes")
        return dict(bundle)

    def declare(self, bundle: dict[str, Any]) -> None:
        self.screen.step("Declare the version in pillar, and do a dry run", "Test mode changes nothing.")
        pillar = _PILLAR.format(base=BASE, source=f"salt://{_BUNDLE}", digest=bundle["hash"])
        (self.directory / "pillar/baseimg.sls").write_text(pillar)
        printed = self.shell.run("cat", "pillar/baseimg.sls")
        self.screen.block(printed.replace(bundle["hash"], f"{bundle['hash'][:15]}…"))
        self.apply_state(None, "test=True")
        self.version_in_new_container(_BILLING, "12.0", is_visible=False)

    def converge(self) -> None:
        self.screen.step("Apply", "One atomic exchange on the node updates every image on this base.")
        self.apply_state({"old": "12.0", "new": "12.1"})
        for image in APPLICATIONS:
            self.version_in_new_container(image, "12.1")

    def running(self) -> None:
        self.screen.step("Running containers", "They keep the old base, whole, until they are stopped and started.")
        expect(self.main_process(), self.process, "the running container's process")
        self.version_in_shop("12.0", f", in the same process {self.process['Pid']} as before")
        containers = self.shell.salt("baseimg.status", BASE, "full=True")["bases"][0]["containers"]
        self.screen.result(f"outdated containers: {', '.join(containers['outdated'])}")
        expect(containers, {"current": [], "outdated": ["shop"], "unknown": []}, "the containers in the status")
        self.shell.line("docker stop shop && docker start shop")
        self.version_in_shop("12.1")

    def save_refused(self) -> None:
        self.screen.step(
            "A limit", "The engine verifies layers when it exports them, and finds that this one has changed."
        )
        error = self.shell.refused("docker", "save", "--output=saved.tar", *self.names)
        self.screen.result(error.removeprefix("Error response from daemon: "))
        expect("file integrity checksum failed" in error, True, f"the engine's refusal ({error})")

    def roll_back(self) -> None:
        self.screen.step("Roll back", "Declare the older version. Its content is still on the node.")
        self.shell.line("sed -i '/version:/s/12.1/12.0/' pillar/baseimg.sls")
        self.apply_state({"old": "12.1", "new": "12.0"})
        for image in APPLICATIONS:
            self.version_in_new_container(image, "12.0", is_visible=image == _BILLING)

    def save_works(self) -> None:
        self.screen.step("The original again", "The engine's checksums match again, for the base and the applications.")
        self.shell.run("docker", "save", "--output=saved.tar", *self.names)
        diff_ids = {image.name: image.diff_ids for image in self.images if image.name in self.names}
        expect(saved_diff_ids(self.directory / "saved.tar"), diff_ids, "the saved layers' digests")
        self.screen.result(f"{len(diff_ids)} images saved, each layer with its original diff ID")

    @property
    def names(self) -> list[str]:
        return [BASE, *APPLICATIONS]

    def apply_state(self, version: dict[str, str] | None, *options: str) -> None:
        """Apply the SLS; ``version`` is the change that it must make, ``None`` in test mode."""
        (state,) = self.shell.salt("state.apply", "baseimg", *options).values()
        self.screen.result(*state["comment"].splitlines())
        expect(state["result"], None if version is None else True, f"the state's result ({state['comment']})")
        expect(state["changes"], {"version": version or {"old": "12.0", "new": "12.1"}}, "the state's changes")

    def version_in_new_container(self, image: str, expected: str, is_visible: bool = True) -> None:
        words = ("docker", "run", "--rm", "--network=none", image, "base", "version")
        self.version(expected, *words, is_visible=is_visible)

    def version_in_shop(self, expected: str, remark: str = "") -> None:
        self.version(expected, "docker", "exec", "shop", "base", "version", remark=remark)

    def version(self, expected: str, *words: str, remark: str = "", is_visible: bool = True) -> None:
        output = self.shell.run(*words, is_visible=is_visible)
        if is_visible:
            self.screen.result(output + remark)
        expect(output, expected, " ".join(words))

    def main_process(self) -> dict[str, Any]:
        state = json.loads(self.shell.run("docker", "inspect", "--format={{json .State}}", "shop", is_visible=False))
        expect(state["Running"], True, "the container shop runs")
        return {key: state[key] for key in ("Pid", "StartedAt")}


def _environment(engine: Engine, directory: Path) -> dict[str, str]:
    """Return the environment of this process, with the private engine instead of any other."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "SALT_"))}
    return {
        **inherited,
        "PATH": f"{_REPO}/.venv/bin:{inherited.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin",
        "DOCKER_HOST": engine.url,
        "DOCKER_CONFIG": str(directory / "docker-config"),
        "SALT_CONFIG_DIR": str(directory / "salt"),
    }


def _version(engine: Engine) -> str:
    return str(engine.client.version()["Version"]).partition("+")[0]


def _write_minion(directory: Path) -> None:
    """Write the configuration of a masterless minion that uses this checkout."""
    for name in ("salt", "pillar", f"srv/{Path(_BUNDLE).parent}"):
        (directory / name).mkdir(parents=True)
    minion = {
        "id": "node1",
        "root_dir": str(directory / "salt-root"),
        "file_client": "local",
        "file_roots": {"base": [str(_REPO / "salt"), str(directory / "srv")]},
        "pillar_roots": {"base": [str(directory / "pillar")]},
        "module_dirs": [str(_REPO)],
        "utils_dirs": [str(_REPO / "_utils")],
        "autoload_dynamic_modules": False,  # modules come from module_dirs
        "fileserver_list_cache_time": 0,  # the bundle is newer than the first file list
        "enable_fqdns_grains": False,  # would query name servers
        "log_level": "quiet",
    }
    (directory / "salt/minion").write_text(json.dumps(minion))
    (directory / "pillar/top.sls").write_text(json.dumps({"base": {"*": ["baseimg"]}}))
