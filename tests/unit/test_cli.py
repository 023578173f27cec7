"""The command for machines without Salt: build, compare and judge images in archives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from baseimg_core import cli
from baseimg_core.disk.bundle.reader import Bundle
from baseimg_core.engine.images import store
from baseimg_core.engine.images.store import ImageSources
from baseimg_core.model.impact import judgement
from baseimg_core.model.impact.verdict import Verdict
from baseimg_core.ops import judge as ops_judge
from tests.support import images, ssh
from tests.support.deadlines import scaled
from tests.support.images import ImageSpec, directory, file, symlink, whiteout

BASE, NEW = "corp/base:12.0", "corp/base:12.1"
OLD_LAYER = images.layer_tar(
    [
        *(directory("bin"), file("bin/sh", b"\x7f", 0o755), directory("usr"), directory("usr/bin")),
        *(file("usr/bin/tool", b"tool", 0o755), file("etc/version", b"12.0\n"), symlink("lib", "usr/lib")),
    ]
)
NEW_LAYER = images.layer_tar([whiteout("usr/bin/tool"), file("etc/version", b"12.1\n")])


def app(*members: images.Member, name: str, **config: Any) -> ImageSpec:
    return ImageSpec(name, [OLD_LAYER, images.layer_tar(members)], {"Env": ["PATH=/usr/bin:/bin"], **config})


APPS = [
    app(file("app/a", b"a"), name="corp/good:1", Cmd=["sh"]),
    app(file("app/a", b"a"), name="corp/broken:1", Cmd=["tool"]),
    app(file("etc/version", b"own\n"), name="corp/blocked:1", Cmd=["sh"]),
    app(symlink("app/link", "/usr/bin/tool"), whiteout("etc/version"), name="corp/linked:1", Cmd=["sh"]),
    ImageSpec("corp/other:1", [images.layer_tar([file("x")])]),
]


@pytest.fixture
def archive(tmp_path: Path) -> str:
    path = tmp_path / "images.tar"
    specs = [ImageSpec(BASE, [OLD_LAYER]), ImageSpec(NEW, [OLD_LAYER, NEW_LAYER]), *APPS]
    path.write_bytes(images.archive(specs))
    return f"docker-archive:{path}"


@pytest.fixture
def bundle(tmp_path: Path, archive: str) -> str:
    path = str(tmp_path / "b.tar")
    assert cli.main(["build", f"{archive}:{BASE}", f"{archive}:{NEW}", path]) == 0
    return path


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = cli.main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_build_inspect_and_diff(archive: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(tmp_path / "b.tar")
    assert cli.main(["build", f"{archive}:{BASE}", f"{archive}:{NEW}", bundle]) == 0
    built = capsys.readouterr().out.splitlines()
    assert built[0].startswith(f"{BASE} -> {NEW} (linux/")
    assert built[1] == "0 added, 1 modified, 1 removed"
    code, manifest = output(capsys, "inspect", bundle, "--verify")
    assert (code, manifest["verified"], manifest["target"]["version"]) == (0, True, "12.1")
    assert built[2].endswith(manifest["hash"])
    code, difference = output(capsys, "diff", f"{archive}:{BASE}", f"{archive}:{NEW}", "--full")
    assert (code, [item["path"] for item in difference["removed"]]) == (0, ["usr/bin/tool"])


def test_sign(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = ssh.make_key(tmp_path / "release")
    code, signed = output(capsys, "sign", bundle, "--key", str(key.path))
    assert (code, signed["signature"]) == (0, f"{bundle}.sig")


def test_errors_have_a_code_of_their_own(bundle: str, archive: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, error = output(capsys, "build", f"{archive}:{BASE}", f"{archive}:{BASE}", bundle)
    assert (code, error["error"]["code"]) == (cli.ERROR, "images-equal")
    assert cli.main(["inspect", "/nowhere.tar"]) == cli.ERROR
    assert "baseimg: [" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["build", "diff", "inspect", "judge", "sign", "push"])
def test_every_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert f"example:\n  baseimg {command} " in capsys.readouterr().out


def test_salt_is_not_imported() -> None:
    code = "import sys, baseimg_core.cli; sys.exit('salt' in sys.modules or 'docker' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": "_utils"})


class TestJudge:
    def judged(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, str]]:
        code, result = output(capsys, "judge", *arguments)
        assert result["retcode"] == code
        return code, {image["image"].rpartition(":corp/")[2]: image["verdict"] for image in result["images"]}

    def test_verdicts_without_a_node(self, archive: str, bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
        names = [f"{archive}:{spec.ref}" for spec in APPS]
        code, verdicts = self.judged(capsys, bundle, *names, f"{archive}:corp/absent:1")
        assert verdicts == {
            "broken:1": "breaks",
            "linked:1": "impaired",
            "absent:1": "not-checked",
            "other:1": "not-checked",
            "blocked:1": "blocked",
            "good:1": "effective",
        }
        assert list(verdicts)[:2] == ["broken:1", "linked:1"]
        assert code == 1

    @pytest.mark.parametrize(
        ("name", "code"), [("good", 0), ("broken", 1), ("other", 2), ("blocked", 3), ("linked", 4), ("absent", 2)]
    )
    def test_exit_codes(
        self, archive: str, bundle: str, capsys: pytest.CaptureFixture[str], name: str, code: int
    ) -> None:
        assert self.judged(capsys, bundle, f"{archive}:corp/{name}:1")[0] == code
        assert self.judged(capsys, bundle, f"{archive}:corp/{name}:1", "--accept", f"*corp/{name}:*")[0] == 0

    def test_the_first_in_the_order_of_verdicts(
        self, archive: str, bundle: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        names = [f"{archive}:corp/{name}:1" for name in ("other", "blocked", "linked")]
        assert self.judged(capsys, bundle, *names)[0] == 4
        assert self.judged(capsys, bundle, *names, "--accept", "*linked*")[0] == 2

    def test_a_list_people_and_junit(
        self, archive: str, bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        listed, xml = tmp_path / "apps.txt", tmp_path / "judge.xml"
        listed.write_text("# ours\n" + "".join(f"{archive}:{spec.ref}  # {spec.ref}\n" for spec in APPS))
        capsys.readouterr()
        assert cli.main(["judge", bundle, "--list", str(listed), "--junit", str(xml), "--accept", "*broken*"]) == 4
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"{BASE} -> {NEW}: 5 images, 1 breaks, 1 impaired, 1 not-checked, 1 blocked, 1 effective"
        assert [line.split()[0] for line in lines[1:]] == ["breaks", "impaired", "not-checked", "blocked"]
        assert "(accepted)" in lines[1]
        assert "tool" in lines[1]
        suite = ElementTree.parse(xml).getroot()
        assert suite.attrib == {
            "name": f"{BASE} to {NEW}", "tests": "5", "failures": "3", "errors": "0", "skipped": "1"
        }  # fmt: skip
        assert len(suite.findall("testcase/failure")) == 3

    def test_contents_of_a_layer_go_with_the_last_image_that_has_it(
        self, archive: str, bundle: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        spooled: list[int] = []
        release = ImageSources.release

        def count(self: ImageSources, directory: str) -> None:
            release(self, directory)
            spooled.append(len(os.listdir(self._scratch)))

        monkeypatch.setattr(ImageSources, "release", count)
        monkeypatch.setattr(ops_judge, "_AT_ONCE", 1)
        names = [f"{archive}:corp/{name}:1" for name in ("good", "broken", "other", "blocked", "absent")]
        assert self.judged(capsys, bundle, *names)[1]["good:1"] == "effective"
        # good and broken have equal layers; the base's own layer stays
        assert spooled == [1, 1]

    def test_four_at_a_time(
        self, archive: str, bundle: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Four images are read at once, and each layer that they share is read once."""
        meeting, read, spooled = threading.Barrier(4), ops_judge._Session._read, list[str]()
        spool = store.spool_layer

        def wait(self: Any, image: Any) -> Any:
            meeting.wait(scaled(10))
            return read(self, image)

        def count(*arguments: Any) -> Any:
            spooled.append(arguments[2])
            return spool(*arguments)

        monkeypatch.setattr(ops_judge._Session, "_read", wait)
        monkeypatch.setattr(store, "spool_layer", count)
        names = [f"{archive}:corp/{name}:1" for name in ("good", "broken", "blocked", "linked")]
        verdicts = self.judged(capsys, bundle, *names)[1]
        assert list(verdicts.values()) == ["breaks", "impaired", "blocked", "effective"]
        assert sorted(spooled) == sorted({images.diff_id(layer) for spec in APPS[:4] for layer in spec.layers})

    def test_results_are_kept(
        self,
        archive: str,
        bundle: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """No layer is read again for the same own layers, configurations and bundle; unread images are tried again."""
        arguments = ("--cache", str(tmp_path / "cache"), bundle, *(f"{archive}:{spec.ref}" for spec in APPS))
        first = output(capsys, "judge", *arguments)[1]["images"]
        read, judged = ops_judge._Session._read, list[str]()

        def note(self: Any, image: Any) -> Any:
            judged.append(image.tags[0])
            return read(self, image)

        monkeypatch.setattr(ops_judge._Session, "_read", note)
        assert output(capsys, "judge", *arguments)[1]["images"] == first
        assert judged == []
        kept = sorted((tmp_path / "cache/judged").iterdir())
        assert len(kept) == 4
        for path in kept:
            path.write_text("{}")
        assert output(capsys, "judge", *arguments)[1]["images"] == first
        assert len(judged) == 4
        assert cli.main(["build", f"{archive}:{BASE}", f"{archive}:{NEW}", bundle, "--version", "12.2"]) == 0
        assert output(capsys, "judge", *arguments)[1]["images"] == first
        assert len(judged) == 8

    def test_images_after_options(
        self, archive: str, bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        images_after = ["--cache", str(tmp_path), f"{archive}:corp/broken:1", "--accept", "x", f"{archive}:corp/good:1"]
        assert list(self.judged(capsys, bundle, *images_after)[1]) == ["broken:1", "good:1"]
        for wrong in (["judge", bundle, f"{archive}:{BASE}", "--nonsense"], ["inspect", bundle, "more"]):
            with pytest.raises(SystemExit):
                cli.main(wrong)

    def test_no_image(self, bundle: str, tmp_path: Path) -> None:
        (tmp_path / "empty").write_text("# nothing\n")
        assert cli.main(["judge", bundle]) == cli.ERROR
        assert cli.main(["judge", bundle, "--list", str(tmp_path / "empty")]) == cli.ERROR


class TestAttach:
    def attach(self, archive: str, bundle: str, *arguments: str) -> bytes:
        assert cli.main(["judge", bundle, f"{archive}:corp/broken:1", "--attach", *arguments]) == 1
        return Path(f"{bundle}.judged").read_bytes()

    def test_beside_the_bundle(self, archive: str, bundle: str, tmp_path: Path) -> None:
        key = ssh.make_key(tmp_path / "release")
        document = self.attach(archive, bundle, "--key", str(key.path))
        with Bundle.open(bundle) as opened:
            parsed = judgement.parse(document)
            assert (parsed.bundle, list(parsed.images.values())) == (opened.digest, [Verdict.BREAKS])
        path = Path(f"{bundle}.judged")
        assert ssh.verify(path, Path(f"{path}.sig"), {"release": key.public}, "release")
        # without a key, no signature of an earlier judgement stays
        self.attach(archive, bundle)
        assert not Path(f"{path}.sig").exists()

    @pytest.mark.parametrize("key", ["/nowhere", "{bundle}"])
    def test_an_unusable_key_is_refused_before_anything_is_judged(
        self, archive: str, bundle: str, key: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, error = output(
            capsys, "judge", bundle, f"{archive}:{BASE}", "--attach", "--key", key.format(bundle=bundle)
        )
        assert (code, error["error"]["code"]) == (cli.ERROR, "argument-invalid")

    def test_of_another_bundle(self, archive: str, bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
        """A stale judgement is not pushed."""
        self.attach(archive, bundle)
        assert cli.main(["build", f"{archive}:{NEW}", f"{archive}:{BASE}", bundle]) == 0
        code, error = output(capsys, "push", bundle, "127.0.0.1:1/b:1")
        assert (code, error["error"]["code"]) == (cli.ERROR, "digest-mismatch")
