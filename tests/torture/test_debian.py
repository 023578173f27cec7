"""A real Debian base with package changes, packed as one more layer and as a rebuilt tree."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from debian import changelog, debian_support

from tests.functional.conftest import emptied, lab  # noqa: F401
from tests.functional.lab import APP, BASE, NEW, SLEEP, Lab, digest, layer
from tests.support import apt, images, kernel, node
from tests.support.engine import Engine
from tests.support.images import diff_id, directory, file, whiteout
from tests.support.kernel import STRAY, differences, show

pytestmark = [pytest.mark.torture, pytest.mark.functional, pytest.mark.slow]

SUITE = "bookworm"
ANEW = "corp/base:anew"
REMOVED, INSTALLED = "less", ("tree", "netcat-openbsd")
# An operator's change of a base, unknown to baseimg. apt orders the packages, as Pre-Depends may require.
UPGRADE = f"""
export DEBIAN_FRONTEND=noninteractive
apt-get --yes --no-install-recommends --option=APT::Sandbox::User=root --option=DPkg::Options::=--force-unsafe-io \\
    install /mnt/*.deb
dpkg --purge {REMOVED}
"""
SLIM = "rm -r /usr/share/doc"
DOCUMENTED = "corp/base:documented"
OWN_LAYER = layer(
    file("usr/bin/app", b"#!/bin/sh\necho app\n", 0o755),
    directory("var/lib/dpkg"),
    file("etc/motd", b"of the application\n"),
    whiteout("etc/issue"),
)


def run(*command: str | Path, **options: object) -> str:
    """Run a command and return its output; if it fails, show the output in the error."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"] + SBIN},
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{done.stdout[-3000:]}"
    return str(done.stdout)


SBIN = ":/usr/sbin:/sbin"


def control(package: str, version: str, *fields: str) -> str:
    more = "".join(f"{field}\n" for field in fields)
    return (
        f"Package: {package}\nVersion: {version}\nArchitecture: all\n{more}"
        "Maintainer: nobody <nobody@example.com>\nDescription: a tool\n"
    )


def own_packages(where: Path, version: str, packages: Path) -> None:
    """
    Build one version of two packages, so that an upgrade exists whatever the mirror holds.

    Between the versions, files are changed, removed, added, and replaced by another type. As with libpam-modules, one
    package must be configured before the other is unpacked, so ``dpkg --install`` of both fails.
    """
    root = where / f"corp-tool-{version}"
    old = version == "1.0"
    for name, content in {
        "DEBIAN/control": control("corp-tool", version, f"Pre-Depends: corp-tool-bin (= {version})"),
        "DEBIAN/conffiles": "/etc/corp-tool.conf\n",
        "DEBIAN/postinst": "#!/bin/sh\nset -e\nchown 0:42 /usr/bin/corp-tool\nchmod 2755 /usr/bin/corp-tool\n"
        f"echo {version} > /var/lib/corp-tool/state\n",
        # dpkg does not replace a directory by a symlink
        "DEBIAN/preinst": "#!/bin/sh\nset -e\nrm -rf /usr/share/corp-tool\n",
        "etc/corp-tool.conf": f"version={version}\n",
        "usr/bin/corp-tool": f"#!/bin/sh\necho corp-tool {version}\n",
        f"usr/lib/corp-tool/{version}": version,
        "usr/lib/corp-tool/both": "the same",
        "usr/share/corp-tool/data" if old else "usr/share/corp-tool-data/data": "data",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (root / "var/lib/corp-tool").mkdir(parents=True)
    if not old:
        (root / "usr/share/corp-tool").symlink_to("corp-tool-data")
    for script in (root / "DEBIAN/preinst", root / "DEBIAN/postinst", root / "usr/bin/corp-tool"):
        script.chmod(0o755)
    needed = where / f"corp-tool-bin-{version}"
    (needed / "DEBIAN").mkdir(parents=True)
    (needed / "DEBIAN/control").write_text(control("corp-tool-bin", version))
    for built in (needed, root):
        run("dpkg-deb", "--root-owner-group", "--build", built, packages)


def debootstrap(where: Path) -> tuple[Path, Path]:
    """Make a minimal Debian with the test's packages, and a directory with the packages of an upgrade."""
    tree, packages = where / "tree", where / "packages"
    sources = apt.sources(SUITE)
    run("debootstrap", "--variant=minbase", f"--include={REMOVED}", SUITE, tree, sources[0].mirror)
    (tree / "etc/apt/sources.list").write_text("".join(f"{source}\n" for source in sources))
    lent = [Path(name) for name in ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt") if Path(name).exists()]
    for path in lent:
        (tree / path.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tree / path.relative_to("/"))
    command = ("chroot", tree, "apt-get", "--yes", "--no-install-recommends", "--option=APT::Sandbox::User=root")
    run(*command, "clean")
    run(*command, *apt.UPDATE)
    run(*command, "--download-only", "dist-upgrade")
    run(*command, "--download-only", "install", *INSTALLED)
    packages.mkdir()
    for package in (tree / "var/cache/apt/archives").glob("*.deb"):
        if not package.name.startswith(f"{REMOVED}_"):  # the mirror may have an update of it
            shutil.move(package, packages)
    run(*command, "clean")
    shutil.rmtree(tree / "var/lib/apt/lists")
    for path in lent:
        (tree / path.relative_to("/")).unlink()
    own_packages(where, "1.0", tree / "tmp")
    own = sorted((tree / "tmp").glob("*.deb"))
    run(*command, "install", *(f"/tmp/{package.name}" for package in own))
    for package in own:
        package.unlink()
    own_packages(where, "1.1", packages)
    return tree, packages


@dataclass(frozen=True)
class Debian:
    """The only layer of `BASE`, and the versions of the packages that `NEW` adds or upgrades."""

    base: bytes
    packages: dict[str, str]


@pytest.fixture
def debian(engine: Engine, tmp_path: Path) -> Debian:
    if shutil.which("debootstrap", path=os.environ["PATH"] + SBIN) is None:
        pytest.skip("debootstrap is not installed")
    tree, packages = debootstrap(tmp_path)
    base = images.layer_from_directory(tree)
    shutil.rmtree(tree)
    engine.load(images.image_archive(BASE, [base]))
    for source, target, script in ((BASE, DOCUMENTED, UPGRADE), (DOCUMENTED, NEW, SLIM)):
        container = engine.start_container(source, "sh", "-exc", script, binds=[f"{packages}:/mnt:ro"])
        status = engine.client.wait(container)["StatusCode"]
        assert status == 0, engine.client.logs(container).decode()[-3000:]
        engine.client.commit(container, *target.split(":"))
    versions = [run("dpkg-deb", "--show", package).split() for package in sorted(packages.glob("*.deb"))]
    return Debian(base, dict(versions))


def installed(lab: Lab, image: str) -> dict[str, str]:  # noqa: F811
    """Return the versions of installed packages by name, from `dpkg -l` in a new container."""
    lines = lab.engine.run(image, "dpkg", "-l").splitlines()
    rows = [line.split() for line in lines if line.startswith("ii ")]
    return {row[1].partition(":")[0]: row[2] for row in rows}


def check_advisories(lab: Lab, changed: dict[str, list[str]]) -> None:  # noqa: F811
    """Compare the advisories of the update with what python-debian reads in the changelogs; slim images have none."""
    built = lab.minion.modules["baseimg.build"](BASE, DOCUMENTED, str(lab.work / "documented.tar"))
    with kernel.mounted(lab.dirs(DOCUMENTED)) as point:
        expected = {name: advisories(Path(point), name, old) for name, (old, _new) in changed.items()}
    assert built["fixes"] == {name: listed for name, listed in expected.items() if listed}
    assert {name for name, listed in expected.items() if listed is None} <= built["unread"].keys()
    slim = lab.inspect(str(lab.bundle(BASE, NEW, version="slim")))["packages"]
    assert set(slim["unread"].values()) == {"the image has no changelog of it"}
    assert slim["unread"].keys() == changed.keys()
    assert slim["owners"]["corp-tool"]["usr/bin"] == ["corp-tool"]


def advisories(root: Path, package: str, old: str) -> list[str] | None:
    """Return the CVEs in a package's changelog since a version; None without a changelog."""
    directory = root / "usr/share/doc" / package.partition(":")[0]
    files = [directory / name for name in ("changelog.Debian.gz", "changelog.gz") if (directory / name).exists()]
    if not files:
        return None
    entries = changelog.Changelog(gzip.decompress(files[0].read_bytes()).decode(), allow_empty_author=True)
    newer = [str(entry) for entry in entries if entry.version > debian_support.Version(old.partition("+b")[0])]
    return sorted(set(re.findall(r"CVE-\d{4}-\d{4,7}", "".join(newer))))[:50]


def test_a_real_base(lab: Lab, debian: Debian) -> None:  # noqa: F811
    with kernel.mounted(lab.dirs(NEW)) as point:
        anew = images.layer_from_directory(point)
    lab.load({ANEW: [anew], APP: [debian.base, OWN_LAYER]})
    before = installed(lab, APP)
    assert before["corp-tool"] == "1.0"
    assert REMOVED in before
    assert not set(INSTALLED) & set(before)
    base, own = lab.dirs(BASE), lab.dirs(APP)[:1]
    pristine = node.inodes(*base)
    lab.engine.start_container(APP, *SLEEP, name="running")

    # the added layer and the rebuilt tree give the same bundle layer, to the byte
    bundle, other = lab.bundle(), lab.bundle(BASE, ANEW, version="12.1")
    assert lab.inspect(bundle, verify=True)["diff_id"] == lab.inspect(other, verify=True)["diff_id"]
    difference = lab.diff(BASE, NEW)
    assert "usr/share/doc" in [change["path"] for change in difference["removed"]]
    (replaced,) = [change for change in difference["modified"] if change["path"] == "usr/share/corp-tool"]
    assert (replaced["type"], replaced["differs"]) == ("symlink", ["type"])
    package_difference = lab.impact(BASE, other)["packages"]
    assert package_difference["removed"] == {REMOVED: before[REMOVED]}
    assert {
        **package_difference["added"],
        **{name: new for name, (_, new) in package_difference["changed"].items()},
    } == debian.packages
    assert {name: old for name, (old, _) in package_difference["changed"].items()}.items() <= before.items()
    check_advisories(lab, package_difference["changed"])
    bundles = {"12.1": {"source": other, "hash": digest(other)}}
    done = lab.minion.states["baseimg.converged"](name=BASE, version="12.1", bundles=bundles)

    assert done["result"] is True, done["comment"]
    assert done["changes"] == {"version": {"old": "12.0", "new": "12.1"}}
    base_view = show(base)
    assert differences(base_view, lab.show(NEW)) == []
    assert STRAY not in {entry.type for entry in base_view.values()}
    assert differences(lab.show(APP), show([*own, *lab.dirs(NEW)])) == []
    after = installed(lab, APP)
    assert REMOVED not in after
    assert {*INSTALLED, "corp-tool"} <= debian.packages.keys()
    assert after.items() - before.items() == debian.packages.items()
    assert lab.engine.run(APP, "corp-tool") == "corp-tool 1.1\n"
    assert lab.engine.run(APP, "cat", "/usr/share/corp-tool/data", "/etc/motd") == "dataof the application\n"
    assert lab.engine.run(APP, "dpkg", "--audit") == ""
    assert lab.engine.exec("running", "corp-tool") == "corp-tool 1.0\n"
    assert lab.status(BASE)["bases"][0]["containers"]["outdated"] == ["running"]
    (fixes,) = lab.minion.modules["baseimg.fixes"](BASE, full=True)["bases"]
    (running,) = [container for container in fixes["containers"] if container["container"] == "running"]
    assert running["pending"]["corp-tool"] == {"state": "after restart", "reason": "the container runs on 12.0"}
    assert "corp-tool" not in next(image["pending"] for image in fixes["images"] if image["image"] == APP)

    lab.rollback(BASE)
    assert node.inodes(*base) == pristine
    assert installed(lab, APP) == before
    assert node.saved_diff_ids(lab.engine, BASE, APP) == {
        BASE: [diff_id(debian.base)],
        APP: [diff_id(debian.base), diff_id(OWN_LAYER)],
    }
