"""The real ssh-keygen: makes keys, signs files and checks signatures, and knows nothing of us."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Key:
    """A pair of keys: ``path`` and ``path.pub``."""

    path: Path

    @property
    def public(self) -> str:
        """The line in the ``.pub`` file: type, base64, comment."""
        return Path(f"{self.path}.pub").read_text().strip()

    @property
    def fingerprint(self) -> str:
        return _run("-l", "-f", f"{self.path}.pub").split()[1]


def make_key(path: Path, kind: str = "ed25519", bits: int | None = None, passphrase: str = "") -> Key:
    _run("-q", "-t", kind, *(["-b", str(bits)] if bits else []), "-N", passphrase, "-C", path.name, "-f", str(path))
    return Key(path)


def sign(file: Path, key: Key, namespace: str = "baseimg", *options: str) -> Path:
    """Write the signature beside the file, in place of one that is there."""
    path = Path(f"{file}.sig")
    path.unlink(missing_ok=True)
    _run("-q", "-Y", "sign", "-n", namespace, "-f", str(key.path), *options, str(file))
    return path


def verify(file: Path, signature: Path, trusted: Mapping[str, str], identity: str, namespace: str = "baseimg") -> bool:
    """Whether ssh-keygen takes the signature for one by this identity."""
    allowed = signature.with_name("allowed_signers")
    allowed.write_text("".join(f"{name} {line}\n" for name, line in trusted.items()))
    command = ["ssh-keygen", "-Y", "verify", "-f", str(allowed), "-I", identity, "-n", namespace, "-s", str(signature)]
    with file.open("rb") as data:
        return subprocess.run(command, stdin=data, capture_output=True, check=False).returncode == 0


def _run(*arguments: str) -> str:
    process = subprocess.run(["ssh-keygen", *arguments], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout
