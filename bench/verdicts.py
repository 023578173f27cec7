"""
Accuracy of verdicts: real Debian applications, judged on a newer base and then run on it.

Each application is a package (or files, wheels of PyPI, a C program) installed above a base of one release; its command
has to succeed there. It is judged for a newer base, and the command runs over that base in a chroot of an overlay. A
base like those of rpm or apk has Debian's files, and a database of that kind with the same packages in place of dpkg's.
The first argument is the directory that keeps the trees, so a second run only judges. Run it as ``make verdicts`` or
``.venv/bin/python bench/verdicts.py DIRECTORY [PAIR…]`` with pairs such as ``bullseye-bookworm``. Needs root, gcc, and
mirrors of Debian and PyPI.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "_utils")]

from baseimg_core.disk.impact.judge import Judge  # noqa: E402
from baseimg_core.model.impact.verdict import Reason, Verdict, worst  # noqa: E402
from bench.named import try_reasons  # noqa: E402
from tests.support import apt  # noqa: E402
from tests.support.judging import base_change  # noqa: E402
from tests.support.mounts import unmount_below  # noqa: E402
from tests.support.packages import as_apk, as_rpm  # noqa: E402

# "split" has directories /bin and /lib, as Docker's image of Debian 11
PAIRS = (
    ("bullseye-split", "bookworm"),
    ("bullseye", "bookworm"),
    ("bookworm", "trixie"),
    ("bookworm", "bookworm-updated"),
    ("bookworm-languages", "trixie-languages"),
    ("bookworm-rpm", "trixie-rpm"),
    ("bookworm-apk", "trixie-apk"),
)
DATABASES = {"rpm": "usr/lib/sysimage/rpm/rpmdb.sqlite", "apk": "usr/lib/apk/db/installed"}
OTHER_MANAGERS = 20  # applications on bases like those of rpm and apk
STATUS = "var/lib/dpkg/status"
LANGUAGES = ["python3", "perl", "ruby", "php-cli", "nodejs"]
APT = ("apt-get", "-q", "--yes", "--no-install-recommends", "--option=APT::Sandbox::User=root")
VENV = "opt/venv/lib/python3.11/site-packages"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SECONDS = 60
_NUMBERS = re.compile(
    r"\b(?:[0-9a-f]{4,}|[\w.+:~-]*\d[\w.+:~-]*|(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\w*)\b"
)


@dataclass(frozen=True)
class Application:
    """An application's packages or files above a base, and the command that uses them."""

    packages: tuple[str, ...]
    command: str
    files: tuple[tuple[str, str], ...] = ()
    #: Wheels of PyPI, in the directory ``packages_directory``.
    wheels: tuple[str, ...] = ()
    packages_directory: str = "usr/local/lib/python3.11/dist-packages"
    #: A command that runs in the tree before the wheels and files are written.
    setup: str = ""
    #: A C program at ``/app/run``, and the libraries of the base that it is linked with.
    source: str = ""
    libraries: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return a name for the table."""
        names = [*self.packages, *self.wheels, *(path for path, _ in self.files), *self.libraries]
        return "+".join(names) or "/app/run"


def _apps(text: str) -> list[Application]:
    """Parse one application a line: packages, a colon, a command."""
    pairs = (line.split(":", 1) for line in text.strip().splitlines())
    return [Application(tuple(packages.split()), command.strip()) for packages, command in pairs]


APPLICATIONS = _apps(r"""
curl: curl -s file:///etc/passwd
wget: wget --version
git: cd /tmp && git init -q x && cd x && git -c user.name=a -c user.email=b commit -q --allow-empty -m x && git log
nginx-light: nginx -t
apache2: apachectl -t
redis-server: redis-server --version && redis-cli --version
sqlite3: sqlite3 :memory: 'select sqlite_version()'
postgresql-client: psql --version
mariadb-client: mariadb --version
openssh-client: ssh -V && ssh-keygen -q -t ed25519 -N '' -f /tmp/key
rsync: rsync -a /etc/passwd /tmp/copy
jq: echo '{}' | jq .
python3: python3 -c 'import ssl, json, sqlite3, hashlib, ctypes, lzma'
python3-requests: python3 -c 'import requests, urllib3, certifi'
python3-yaml: python3 -c 'import yaml; yaml.CSafeLoader'
python3-lxml: python3 -c 'import lxml.etree'
python3-cryptography: python3 -c 'from cryptography.fernet import Fernet; Fernet(Fernet.generate_key())'
libjson-perl libjson-xs-perl: perl -e 'use JSON::XS; print encode_json([1])'
libxml-parser-perl: perl -e 'use XML::Parser; XML::Parser->new->parse("<a/>")'
ruby: ruby -e 'require "openssl"; require "json"; puts JSON.generate([1])'
php-cli: php -r 'echo json_encode([1]), PHP_VERSION;'
nodejs: node -e 'console.log(require("crypto").createHash("sha256").update("x").digest("hex"))'
lua5.4: lua5.4 -e 'print(1)'
tcl: echo 'puts [info patchlevel]' | tclsh
imagemagick: convert -size 4x4 xc:red /tmp/x.png
graphviz: echo 'digraph { a -> b }' | dot -Tsvg
vim-tiny: vim.tiny --version
tmux: tmux -V
iproute2: ip -V && ip link show lo
procps: ps -V
busybox: busybox true
dnsutils: dig -v
tcpdump: tcpdump --version
socat: socat -V
haproxy: haproxy -v
memcached: memcached -V
gnupg: gpg --version
openssl: openssl version && openssl rand -hex 4
stunnel4: stunnel4 -version
unzip zip: cd /tmp && zip -q x.zip /etc/passwd && unzip -qo x.zip
bzip2 xz-utils: xz -c /etc/passwd | xz -dc && bzip2 -c /etc/passwd | bzip2 -dc
file: file /bin/sh
bc: echo 1+1 | bc
gawk: gawk 'BEGIN { print 1 }'
ldap-utils: ldapsearch -VV
libpq5 python3-psycopg2: python3 -c 'import psycopg2'
ffmpeg: ffmpeg -version
supervisor: supervisord --version
uwsgi-core: uwsgi --version
""")
LANGUAGE_APPLICATIONS = [
    *_apps(r"""
python3-yaml: python3 -c 'import yaml; yaml.CSafeLoader'
python3-lxml: python3 -c 'import lxml.etree'
python3-requests: python3 -c 'import requests'
python3-flask: python3 -c 'import flask'
python3-numpy: python3 -c 'import numpy; numpy.zeros(3)'
python3-psycopg2: python3 -c 'import psycopg2'
libjson-xs-perl: perl -e 'use JSON::XS; print encode_json([1])'
libdbi-perl libdbd-sqlite3-perl: perl -e 'use DBI; DBI->connect("dbi:SQLite::memory:")'
libwww-perl: perl -e 'use LWP::UserAgent'
ruby-nokogiri: ruby -e 'require "nokogiri"'
ruby-rack: ruby -e 'require "rack"'
php-xml: php -r 'new DOMDocument;'
php-curl: php -r 'curl_version();'
node-express: node -e 'require("express")'
git: git --version
curl: curl -s file:///etc/passwd
"""),
    Application((), "/app/run", (("/app/run", "#!/usr/bin/python3\nimport json, ssl\n"),)),
    Application((), "/app/run", (("/app/run", "#!/usr/bin/python3.11\nprint(1)\n"),)),
    Application((), "/app/run", (("/app/run", "#!/usr/bin/perl\nuse POSIX; use List::Util;\n"),)),
    Application((), "/app/run", (("/app/run", "#!/bin/sh\nset -e\n/usr/bin/ruby3.1 -e 1\n"),)),
    Application(
        (), "python3 -c 'import shop'",
        (("/usr/local/lib/python3.11/dist-packages/shop.py", "price = 1\n"),),
    ),
    Application((), "python3 /app/main.py", (("/app/main.py", "import sys\nprint(sys.version)\n"),)),
    Application((), "python3 -c 'import yaml; yaml.CSafeLoader'", wheels=("pyyaml",)),
    Application(
        (), "python3 -c 'import requests'", wheels=("requests", "urllib3", "idna", "certifi", "charset-normalizer")
    ),
    Application((), "python3 /app/main.py", (("/app/main.py", "import numpy\nnumpy.zeros(3)\n"),), wheels=("numpy",)),
    Application((), "/app/main", (("/app/main", "#!/opt/venv/bin/python3\nimport jinja2\n"),),
        wheels=("jinja2", "markupsafe"), packages_directory=VENV, setup="python3 -m venv --without-pip /opt/venv"),
    Application((), "/opt/venv/bin/python3 -c 'import cryptography.fernet'",
        wheels=("cryptography", "cffi", "pycparser"),
        packages_directory=VENV, setup="python3 -m venv --without-pip /opt/venv"),
    Application((), "/opt/venv/bin/python3 -c 'import json'", setup="python3 -m venv --without-pip /opt/venv"),
    Application(
        (), "PYTHONPATH=/app/lib python3 -c 'import yaml; yaml.safe_load(\"a: 1\")'",
        wheels=("pyyaml",), packages_directory="app/lib",
    ),
    Application(
        (), "/app/run", source="const char *zlibVersion(void);\nint main(void) { return !zlibVersion(); }",
        libraries=("libz.so.1",),
    ),
    Application((), "/app/run", source="int ruby_setup(void);\nint main(void) { return ruby_setup(); }",
        libraries=("libruby-3.1.so.3.1",)),
    Application((), "/app/run", source="#include <stdio.h>\nint main(void) { return puts(\"x\") < 0; }"),
    *_apps(r"""
node-iconv: node -e 'new (require("iconv").Iconv)("UTF-8", "ASCII")'
node-sqlite3: node -e 'new (require("sqlite3").Database)(":memory:")'
node-semver: node -e 'require("semver").valid("1.2.3") || process.exit(1)'
ruby-bcrypt: ruby -e 'require "bcrypt"; BCrypt::Password.create("x")'
ruby-sinatra: ruby -e 'require "sinatra/base"'
php-mbstring: php -r 'exit(mb_strlen("x") - 1);'
php-sqlite3: php -r 'new SQLite3(":memory:");'
libtemplate-perl: perl -e 'use Template; Template->new'
libdatetime-perl: perl -e 'use DateTime; DateTime->now'
libjson-perl: perl -e 'use JSON; print encode_json([1])'
python3-django: python3 -c 'import django.template'
python3-pil: python3 -c 'from PIL import Image; Image.new("L", (2, 2))'
python3-aiohttp: python3 -c 'import aiohttp'
"""),
]  # fmt: skip


def main() -> None:
    where = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="baseimg-verdicts-"))
    where.mkdir(exist_ok=True)
    names = sys.argv[2:]
    results: list[dict[str, Any]] = []
    for old, new in PAIRS:
        if not names or f"{old}-{new}" in names:
            results += judge_pair(where, old, new)
    report(results)


def judge_pair(where: Path, old: str, new: str) -> list[dict[str, Any]]:
    """Judge and run every application of one base on another."""
    manager = old.partition("-")[2] if old.partition("-")[2] in DATABASES else ""
    names = (old.removesuffix(f"-{manager}"), new.removesuffix(f"-{manager}")) if manager else (old, new)
    bases = [with_database(where, [base(where, name)], name, manager) for name in names]
    judge = Judge(base_change(*bases), {})
    applications = LANGUAGE_APPLICATIONS if old.endswith("-languages") else APPLICATIONS
    results = []
    for number, application in enumerate(applications[: OTHER_MANAGERS if manager else None]):
        upper = install(where, names[0], bases[0][-1], number, application)
        if upper is None:
            continue
        own = with_database(where, [upper, base(where, names[0])], f"{names[0]}.{number}", manager)[:-1]
        config = {"Cmd": ["/bin/sh", "-c", application.command], "Env": [f"PATH={PATH}"]}
        reasons = judge.reasons([str(layer) for layer in own], config)
        code, output = run([*own, *bases[1]], application.command)
        _code, before = run([*own, *bases[0]], application.command)
        works = code == 0 and (is_equal(output, before) or is_equal(output, rebuilt(where, names[1], application)))
        verdict = worst(reason.verdict for reason in reasons)
        kind = wrong(verdict, works)
        with mounted([*own, *bases[0]]) as (old_root, _), mounted([*own, *bases[1]]) as (new_root, _):
            tried = try_reasons(reasons, (old_root, new_root), (bases[0][-1], bases[1][-1]))
        results.append(
            {
                "pair": f"{old}-{new}", "application": application.name, "verdict": verdict.value, "works": works,
                "wrong": kind, "code": code, "output": output[-300:], "before": before[-300:],
                "reasons": reason_lines(reasons), **dataclasses.asdict(tried),
            }
        )  # fmt: skip
        (where / f"{old}-{new}.json").write_text(json.dumps(results, indent=1))
        outcome = "works" if works else f"exit code {code}"
        named = f"{len(tried.not_failing)} of {tried.tried} named do not fail, {len(tried.missed)} missed"
        print(f"{old}-{new} {application.name}: {verdict.value}, {outcome}; {named} {kind}", flush=True)
    return results


def is_equal(output: str, other: str) -> bool:
    """True if two outputs are equal but for numbers, which versions, times and random data have."""
    return _NUMBERS.sub("N", output) == _NUMBERS.sub("N", other)


def rebuilt(where: Path, name: str, application: Application) -> str:
    """Return the output of an application that is installed above the new base."""
    number = (*APPLICATIONS, *LANGUAGE_APPLICATIONS).index(application)
    upper = install(where, name, base(where, name), 1000 + number, application)
    return run([upper, base(where, name)], application.command)[1] if upper else ""


def wrong(verdict: Verdict, works: bool) -> str:
    """Return how a verdict is wrong, empty if it is right. ``impaired`` does not predict a failure."""
    if verdict is Verdict.BREAKS and works:
        return "false red"
    is_green = verdict in (Verdict.EFFECTIVE, Verdict.PARTLY, Verdict.BLOCKED)
    return "false green" if is_green and not works else ""


def reason_lines(reasons: Sequence[Reason]) -> list[str]:
    return [f"{reason.verdict.value}: {reason.code}: {reason.subject} {reason.text}" for reason in reasons[:20]]


def base(where: Path, name: str) -> Path:
    """Return the tree of a base; create it if it is missing."""
    tree = where / name
    if tree.exists():
        return tree
    suite, _, kind = name.partition("-")
    sources = apt.sources(suite)
    making = where / f"{name}.new"
    shutil.rmtree(making, ignore_errors=True)
    if kind not in ("", "split"):
        _call("cp", "-a", base(where, suite), making)
        command = ("dist-upgrade",) if kind == "updated" else ("install", *LANGUAGES)
        _sources(making, sources if kind == "updated" else sources[:1])
        _apt(making, *apt.UPDATE)
        _apt(making, *command)
    else:
        layout = "--no-merged-usr" if kind == "split" else "--merged-usr"
        include = ("--variant=minbase", "--include=ca-certificates")
        _call("debootstrap", layout, *include, suite, making, sources[0].mirror)
    _clean(making)
    making.rename(tree)
    return tree


def install(where: Path, name: str, tree: Path, number: int, application: Application) -> Path | None:
    """Return an application's layer above a base; None if the release lacks it or its command fails."""
    upper = where / f"{name}.apps" / f"{number}"
    if upper.exists():
        return upper if not (where / f"{name}.apps" / f"{number}.failed").exists() else None
    upper.parent.mkdir(exist_ok=True)
    with mounted([package_lists(where, name, tree), tree]) as (point, written):
        if application.packages and not _apt(point, "install", *application.packages, check=False):
            upper.mkdir()
            upper.with_suffix(".failed").touch()
            return None
        write(point, tree, application)
        _clean(point)
        unmount_below(point)
        _call("cp", "-a", written, upper)
    code, output = run([upper, tree], application.command)
    if code:
        upper.with_suffix(".failed").write_text(output)
        return None
    return upper


def write(point: Path, tree: Path, application: Application) -> None:
    """Write the wheels, the files and the program of an application into the root ``point`` above a base's tree."""
    if application.setup:
        _call("chroot", point, "/bin/sh", "-c", application.setup)
    if application.wheels:
        target = (
            "--python-version=3.11",
            "--implementation=cp",
            "--platform=manylinux2014_x86_64",
            "--only-binary=:all:",
        )
        _call(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", *target,
              "--target", point / application.packages_directory, *application.wheels)  # fmt: skip
    for path, text in application.files:
        file = point / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    if application.source:
        (point / "app").mkdir()
        libraries = [str(tree / "usr/lib/x86_64-linux-gnu" / name) for name in application.libraries]
        with tempfile.TemporaryDirectory() as work:
            source = Path(work) / "run.c"
            source.write_text(application.source)
            _call("gcc", "-o", point / "app/run", source, "-Wl,--unresolved-symbols=ignore-in-shared-libs", *libraries)


def with_database(where: Path, layers: list[Path], name: str, manager: str) -> list[Path]:
    """Return layers, top first, with a database of another package manager in place of dpkg's, above them."""
    if not manager:
        return layers
    database = where / f"{name}.{manager}"
    if not database.exists():
        making = where / f"{name}.{manager}.new"
        shutil.rmtree(making, ignore_errors=True)
        with mounted(layers) as (point, _written):
            status = (point / STATUS).read_bytes()
            content = as_rpm(status) if manager == "rpm" else as_apk(status, point)
        file = making / DATABASES[manager]
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        (making / "var/lib").mkdir(parents=True)
        os.mknod(making / "var/lib/dpkg", stat.S_IFCHR, os.makedev(0, 0))
        making.rename(database)
    return [database, *layers]


def package_lists(where: Path, name: str, tree: Path) -> Path:
    """Return a layer with the package lists of a base's release, which belong to no application."""
    lists = where / f"{name}.lists"
    if not lists.exists():
        with mounted([tree]) as (point, written):
            _sources(point, apt.sources(name.partition("-")[0])[:1])
            _apt(point, *apt.UPDATE)
            unmount_below(point)
            _call("cp", "-a", written, lists)
    return lists


def run(layers: Sequence[Path], command: str) -> tuple[int, str]:
    """Run a command over layers, top first; return its exit code and output."""
    with mounted(layers) as (point, _written):
        try:
            done = subprocess.run(
                ["chroot", str(point), "/bin/sh", "-c", command],
                env={"PATH": PATH, "HOME": "/root", "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return 124, "timed out"
        return done.returncode, done.stdout.decode(errors="replace")


@contextlib.contextmanager
def mounted(layers: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Mount an overlay of layers, top first, with /proc and devices; yield it and its upper directory."""
    with tempfile.TemporaryDirectory(prefix="baseimg-verdict-", dir=layers[-1].parent) as work:
        point, upper, below = (Path(work) / name for name in ("point", "upper", "work"))
        for directory in (point, upper, below):
            directory.mkdir()
        options = (
            f"lowerdir={':'.join(map(str, layers))},upperdir={upper},workdir={below},redirect_dir=off,metacopy=off"
        )
        _call("mount", "-t", "overlay", "overlay", "-o", options, point)
        try:
            # nothing of the host is mounted, so a faulty command can only remove files of this directory
            with contextlib.suppress(SystemExit):
                _call("mount", "-t", "proc", "proc", point / "proc")
                _devices(point / "dev")
            yield point, upper
        finally:
            unmount_below(point)


def _devices(directory: Path) -> None:
    """Mount the devices of every container on their own file system, so no layer gets them."""
    _call("mount", "-t", "tmpfs", "tmpfs", directory)
    for name, minor in (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)):
        os.mknod(directory / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        (directory / name).chmod(0o666)
    (directory / "fd").symlink_to("/proc/self/fd")


def _sources(root: Path, sources: Sequence[apt.Source]) -> None:
    (root / "etc/apt/sources.list").write_text("".join(f"{source}\n" for source in sources))
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")


def _apt(root: Path, *command: str, check: bool = True) -> bool:
    """Run `apt-get COMMAND` in a tree without starting services."""
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        _call("chroot", root, *APT, *command)
    except SystemExit:
        if check:
            raise
        return False
    finally:
        policy.unlink()
    return True


def _clean(root: Path) -> None:
    for name in ("var/cache/apt", "var/log", "var/cache/ldconfig"):
        for file in sorted((root / name).rglob("*"), reverse=True):
            if not file.is_dir() or file.is_symlink():
                file.unlink()


def _call(*command: str | Path) -> None:
    settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    environment = {"PATH": PATH, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", **settings}
    done = subprocess.run(
        [str(word) for word in command],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(
            f"{' '.join(map(str, command))} exited with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}"
        )


def report(results: Sequence[dict[str, Any]]) -> None:
    """Return a row for each pair of bases."""
    print(
        "| bases | applications | work | breaks | impaired | impaired, fail | not-checked | false green | false red "
        "| named | do not fail | missed |"
    )
    print(f"|{' --- |' * 12}")
    for pair in dict.fromkeys(result["pair"] for result in results):
        rows = [result for result in results if result["pair"] == pair]
        verdicts = [sum(row["verdict"] == name for row in rows) for name in ("breaks", "impaired", "not-checked")]
        verdicts.insert(2, sum(row["verdict"] == "impaired" and not row["works"] for row in rows))
        errors = [sum(row["wrong"] == name for row in rows) for name in ("false green", "false red")]
        named = [
            sum(row["tried"] for row in rows),
            *(sum(len(row[key]) for row in rows) for key in ("not_failing", "missed")),
        ]
        print(
            "|",
            " | ".join(map(str, [pair, len(rows), sum(row["works"] for row in rows), *verdicts, *errors, *named])),
            "|",
        )


if __name__ == "__main__":
    main()
