"""Programs that commands and shell text start, and paths that text names."""

from __future__ import annotations

import pytest

from baseimg_core.model.impact import config, started


@pytest.mark.parametrize(
    ("command", "programs"),
    [
        (["/app/run", "--port", "1"], "/app/run"),
        (["tini", "--", "java", "-jar", "x"], "tini java"),
        (["env", "-i", "A=b", "python3", "x.py"], "env python3"),
        (["gosu", "svc", "nginx"], "gosu nginx"),
        (["su-exec", "svc:svc", "/bin/app"], "su-exec /bin/app"),
        (["timeout", "5", "nginx"], "timeout nginx"),
        (["sh", "-c", "exec nginx -g 'daemon off;'"], "sh nginx"),
        (["/bin/sh", "-ec", "cd /app && A=1 ./run | tee log; exit 1"], "/bin/sh ./run tee"),
        (["bash", "/entry.sh", "serve"], "bash /entry.sh"),
        (["busybox", "httpd"], "busybox httpd"),
        (["docker-entrypoint.sh", "postgres"], "docker-entrypoint.sh postgres"),
        (["sh", "-c", "if [ -f x ]; then java; else python3 y; fi"], "sh java python3"),
        (["sh", "-c", '$JAVA_HOME/bin/java; "$X" y; ${Z} a'], "sh"),
        (["sh", "-c", "while true; do sleep 1; done"], "sh sleep"),
        (["sh", "-c", "echo 'unclosed"], "sh"),
        (["sh", "-c"], "sh"),
        ([], ""),
    ],
)
def test_programs_of_a_command(command: list[str], programs: str) -> None:
    assert started.programs(command) == programs.split()


def test_programs_of_a_script() -> None:
    text = "#!/bin/sh\n# tool\nset -e\n. /etc/env\nlong \\\n  argument\nX=$(date)\nexec \\\n  server --now\n"
    assert [name for name in started.shell_programs(text) if name != "date"] == ["long", "server"]


def test_commands_of_an_image() -> None:
    raw = {"Entrypoint": ["/entry.sh"], "Cmd": ["serve"], "Healthcheck": {"Test": ["CMD-SHELL", "curl -f x"]}}
    assert started.commands(config.parse(raw)) == [
        ("/entry.sh", "serve"),
        ("serve",),
        ("/bin/sh", "-c", "curl -f x"),
    ]
    assert started.commands(config.parse({"Cmd": None, "Healthcheck": {"Test": ["CMD", "true"]}})) == [("true",)]
    assert started.commands(config.parse({"Healthcheck": {"Test": ["NONE"]}})) == []


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        (b"exec /opt/jdk-1/bin/java -jar /app/x.jar\n", b"/opt/jdk-1/bin/java /app/x.jar"),
        (b"# /opt/x\n; /opt/y\n  // /opt/z\n", b""),
        (b"#!/usr/bin/python3.9\n", b"/usr/bin/python3.9"),
        (b'home="/opt/a";lib=/usr/lib/x.so.1,\n', b"/opt/a /usr/lib/x.so.1"),
        (b"http://host/path a/b ${X}/c $Y/d ./e\n", b""),
        (b"see /usr/share/doc.\n", b"/usr/share/doc"),
        (b"HTTPD=${APACHE_HTTPD:-/usr/sbin/apache2}\n", b"/usr/sbin/apache2"),
    ],
)
def test_paths_in_text(text: bytes, paths: bytes) -> None:
    assert started.paths_in(text) == set(paths.split())


class TestConfig:
    OLD = {"Env": ["PATH=/a", "X=1"], "User": "svc", "Labels": {"v": "1"}, "Cmd": ["a", "b"]}  # noqa: RUF012
    NEW = {"Env": ["PATH=/b", "Y=2"], "User": "svc", "Labels": {"v": "2"}, "Cmd": ["a", "b"]}  # noqa: RUF012

    def test_difference(self) -> None:
        assert config.difference(self.OLD, self.NEW) == {
            "Env.PATH": ("/a", "/b"),
            "Env.X": ("1", ""),
            "Env.Y": ("", "2"),
            "Labels.v": ("1", "2"),
        }
        assert config.difference(self.OLD, self.OLD) == {}

    def test_an_image_inherits_what_it_did_not_set(self) -> None:
        changes = config.difference(self.OLD, self.NEW)
        assert config.inherited(changes, self.OLD) == ["Env.PATH", "Env.X", "Env.Y"]
        assert config.inherited(changes, {"Env": ["PATH=/own", "X=1", "Y=own"]}) == ["Env.X"]

    def test_several_bundles(self) -> None:
        first, second = {"Env.A": ("1", "2"), "Env.B": ("", "x")}, {"Env.A": ("2", "3"), "Env.B": ("x", "")}
        assert config.combine([first, second]) == {"Env.A": ("1", "3")}
        assert config.combine([first, None]) is None

    def test_what_is_too_large_for_a_manifest_is_left_out(self) -> None:
        labels = {f"l{number}": "x" * 4000 for number in range(200)}
        assert config.difference({}, {"Labels": labels, "User": "svc"}) == {"User": ("", "svc")}
        many = config.difference({}, {"Env": [f"V{number}=x" for number in range(1000)]})
        assert config.parse_difference({name: list(pair) for name, pair in many.items()}) == many
