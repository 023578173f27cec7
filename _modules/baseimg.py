"""
Apply newer versions of a base image to the images that are built on it, without rebuilding or pulling them.

:depends: the Python package ``docker``; ``zstandard`` (below Python 3.14) for zstd bundles; ``cryptography`` for
    signatures
:configuration: all keys in the minion's configuration or in pillar, below ``baseimg``:

    ``engine``
        Which engine to use (:py:func:`baseimg.engines`). Default: ``docker.url`` in the minion's configuration, else
        ``DOCKER_HOST``, else the first default socket of Docker, Podman and containerd that exists.
    ``lock_timeout``
        Seconds to wait for another job on the same base. Default 60.
    ``reserve``
        Percentage of the layers' file system that must stay free. Default 2.
    ``link``
        How a new generation shares data with the previous one (docs/reference/store-format.md): ``auto`` (default)
        shares extents if the file system can, else inodes of large files; ``reflink``, ``copy``, ``hardlink``.
    ``grace``
        Seconds that a generation stays after it was swapped out, whatever ``keep`` says: a container may just be
        mounting it. Default 900. 0 is allowed, with a warning.
    ``allow_devices``
        True: accept bundles with device nodes other than those that every container has. Default false.
    ``trusted_keys``
        Identity → line of a ``.pub`` file: who must have signed a bundle. Pillar counts only if the minion's own
        configuration has neither this key nor the next one.
    ``require_signature``
        False: accept unsigned bundles. Default true if ``trusted_keys`` is set.

Keys whose value would be empty are left out of returned structures: ``None``, an empty text, list or mapping. Three
functions return every key: ``declared``, ``containers`` and ``inspect``. So does ``full=True`` of the others.

Every failure is a ``CommandExecutionError`` whose ``info`` holds a stable ``code``, the message and a hint.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import sys
import time

import salt.utils.args
import salt.version
from salt.exceptions import CommandExecutionError

getattr(sys.modules.get("baseimg_core"), "purge_if_stale", bool)()

__virtualname__ = "baseimg"
_VERSION = "0.2.0"
_FORMAT = 2
# what the doctor also checks without the core; tests compare both with ops/doctor.py
_PYTHON, _SALT = (3, 10), 3006
_UPGRADE = "upgrade the package salt-minion"
_PACKAGES = {  # subject: requirement, level and code if it is missing, and what then fails
    "docker SDK": ("docker>=7.1,<8", "warning", "dependency-missing", "containers cannot be restarted"),
    "zstd": ("zstandard", "failed", "compression-unsupported", "bundles are compressed with zstd by default"),
    "signatures": ("cryptography", "warning", "signature-unsupported", "signed bundles cannot be verified"),
}

try:
    import baseimg_core

    # another version may lack what is imported next; then the versions are the better reason
    if baseimg_core.__version__ == _VERSION:
        from baseimg_core import goals
        from baseimg_core.errors import BaseimgError
        from baseimg_core.linux.oserrors import translate_os_errors
        from baseimg_core.minion import Minion
        from baseimg_core.minion_judge import judge as judge_images
        from baseimg_core.model import diagnosis
        from baseimg_core.model import summary as short
        from baseimg_core.model.containers import policy as container_policy
        from baseimg_core.model.containers import trial as container_trial
        from baseimg_core.model.fixes import summary as fixes_summary
        from baseimg_core.model.policy import named_fixes, pillar, validation
        from baseimg_core.ops import adopt as ops_adopt
        from baseimg_core.ops import bases, declared_bases, public_file, several_bases
        from baseimg_core.ops import build as ops_build
        from baseimg_core.ops import converge as ops_converge
        from baseimg_core.ops import fixes as ops_fixes
        from baseimg_core.ops import hold as ops_hold
        from baseimg_core.ops import impact as impacting
        from baseimg_core.ops import import_legacy as ops_import_legacy
        from baseimg_core.ops import judgement as ops_judgement
        from baseimg_core.ops import live as ops_live
        from baseimg_core.ops import prune as ops_prune
        from baseimg_core.ops import sbom as ops_sbom
        from baseimg_core.ops import status as ops_status
        from baseimg_core.ops import trial as ops_trial
        from baseimg_core.ops import verify as ops_verify
        from baseimg_core.ops.containers import give_up as ops_give_up
        from baseimg_core.ops.containers import health as ops_health

        _text, _given, _flag, _short = validation.text, validation.given_text, validation.boolean, short.without_empty
    _MISSING = None
except (ImportError, SyntaxError) as exc:  # a Python that is too old may not read the core
    _MISSING = exc


def __virtual__():
    """
    Always load: a missing execution function makes an SLS a Jinja error, which fails every state of a run.

    Each function says what is missing (:func:`_check_installation`).
    """
    return __virtualname__


def _check_installation():
    """Refuse to work with a missing core, with the core of another version, or without root."""
    if _MISSING is not None:
        name = getattr(_MISSING, "name", None) or "baseimg_core"
        hint = f"{_sync()}; for salt-ssh, install baseimg with pip on the target"
        hint = hint if name.startswith("baseimg_core") else _pip(f"install {name}")
        hint = hint if sys.version_info[:2] >= _PYTHON else _UPGRADE
        raise _refused("dependency-missing", f"baseimg cannot run on this minion: {_MISSING}", hint)
    if baseimg_core.__version__ != _VERSION:
        where = os.path.dirname(baseimg_core.__file__)
        message = f"baseimg {_VERSION} cannot use the core of version {baseimg_core.__version__} in {where}"
        hint = _pip("uninstall -y baseimg") if "site-packages" in where else _sync()
        raise _refused("version-mixed", message, hint)
    if os.geteuid() != 0:
        message = "baseimg changes layer directories and must run as root"
        raise _refused("not-root", message, "run the minion or salt-call as root")


def _refused(code, message, hint):
    """The error for an installation that cannot work; the core's own errors may be what is missing."""
    return _error(f"[{code}] {message} -- {hint}", {"code": code, "message": message, "hint": hint})


def _error(text, info):
    """An error of one line for people. Salt appends the whole ``info`` to the text if it gets both together."""
    error = CommandExecutionError(text)
    error.info = info
    return error


def _sync():
    """The command that installs the files of the file server on this minion."""
    return f"salt-call {'--local ' if __opts__.get('file_client') == 'local' else ''}saltutil.sync_all"


def _pip(arguments):
    """The command of pip for the Python that runs Salt."""
    return f"{'salt-pip' if shutil.which('salt-pip') else f'{sys.executable} -m pip'} {arguments}"


def _checks_without_core(problem):
    """The checks of the doctor that need no core, as data; ``problem`` is why the core cannot be used."""
    python, salt_version = ".".join(map(str, sys.version_info[:3])), salt.version.__version__
    old_python = ("failed", "python-old", f"{python}, {'.'.join(map(str, _PYTHON))} is the oldest that works", _UPGRADE)
    old_salt = ("failed", "salt-old", f"{salt_version}, {_SALT} is the oldest that works", _UPGRADE)
    checks = {
        "installation": ("failed", problem["code"], problem["message"], problem["hint"]),
        "Python": old_python if sys.version_info[:2] < _PYTHON else ("ok", "", python, ""),
        "Salt": old_salt if int(re.match(r"\d*", salt_version).group() or 0) < _SALT else ("ok", "", salt_version, ""),
    }
    for subject, (requirement, level, code, failing) in _PACKAGES.items():
        package = re.match(r"\w+", requirement).group()
        missing = (level, code, f"{package} is not installed; {failing}", _pip(f"install '{requirement}'"))
        modules = (package, "_zstd") if subject == "zstd" else (package,)  # Python 3.14 includes zstd
        checks[subject] = ("ok", "", "installed", "") if any(map(importlib.util.find_spec, modules)) else missing
    names, order = ("level", "code", "message", "command"), ("failed", "warning", "ok")
    ordered = sorted(checks.items(), key=lambda item: order.index(item[1][0]))
    return [{"subject": subject, **dict(zip(names, check, strict=True))} for subject, check in ordered]


def _line(check):
    """The line of a check, as the core writes it."""
    code, command = (f"[{check['code']}] ", f" -- {check['command']}") if check["code"] else ("", "")
    return f"{check['level']:7} {check['subject']}: {code}{check['message']}{command}"


def layer(image):
    """
    Show where the top layer of an image lies on this machine.

    image
        Reference or ID of an image, or an image elsewhere; see :py:func:`baseimg.build`.

    Returns ``image``, ``chain_id``, ``diff_id`` (of the top layer), ``path`` (the top layer's directory), ``lower``
    (the directories below it, top first) and ``storage``; an image outside the engine has no directories. Chain IDs are
    those of the OCI image spec, config.md.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.layer corp/base:12.0
    """
    with _operation() as minion, minion.images() as images:
        return _short(ops_build.layer(images, _text(image, "image")))


def diff(source, target, full=False, platform=None):
    """
    Compare what two images show, path by path.

    source, target
        References or IDs of two images, or images elsewhere; see :py:func:`baseimg.build`.

    full
        True: return every change.

    platform
        ``OS/ARCHITECTURE`` of images in an index; this machine's by default.

    Returns ``source``, ``target``, ``platform``, ``counts`` (paths that are ``added``, ``modified`` and ``removed``; if
    there are any, ``metadata``: modified paths with the same content, and ``inside``: paths in removed directories),
    the ``bytes`` of all files with new content, the ten ``biggest``, and under ``config`` the old and new
    configuration. With ``full`` the changes themselves instead, under ``added``, ``modified`` and ``removed``: each
    with its ``path``, ``type``, the ``size`` of a file in bytes, for a modified path what ``differs``, and for a
    removed directory how many paths were ``inside``. A removed directory is one change.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.diff corp/base:12.0 corp/base:12.1
    """
    with _operation("diff") as minion, minion.images(platform) as images:
        validation.check_texts(source=source, target=target)
        result = ops_build.diff(images, source, target, minion.progress)
        return result if full else _short(short.of_diff(result))


def build(
    source,
    target,
    bundle,
    version=None,
    compression="zstd",
    test=False,
    key=None,
    delta=None,
    fixes=None,
    reference=None,
    platform=None,
):
    """
    Build the bundle that leads from ``source`` to ``target``. The same images give a byte-identical file.

    source, target
        References or IDs of two images of the engine on this machine, or images elsewhere, which need no engine and no
        root: ``docker-archive:FILE[:REF]`` (of ``docker save`` or ``podman save``), ``oci:DIRECTORY[:REF]``,
        ``oci-archive:FILE[:REF]``, ``docker://HOST/NAME:TAG`` or ``docker://HOST/NAME@DIGEST``.

    bundle
        Path of the file to write. It is written under a temporary name, readable by root only, and renamed.

    version
        The name of the new content; the target's tag by default.

    compression
        ``zstd``, or ``gzip`` for nodes that cannot read zstd.

    test
        Only compare; without ``hash``, and with 0 as the ``size``.

    key
        Path of a private key to sign the bundle with; see :py:func:`baseimg.sign`.

    delta
        Encode the changes as the difference to the old files, which is several times smaller: ``only``, ``both`` (also
        in full, for nodes whose files differ or that cannot read zstd), or ``auto``, which keeps the smaller one. A
        node needs zstd for a delta, whatever ``compression`` says.

    fixes
        Package or absolute path → advisories that the new version fixes, such as ``{openssl: [CVE-2024-5535]}``. They
        are added to those that the changelogs in the target name.

    reference
        The name of the source in the bundle, as nodes know it; by default its own. An OCI layout has no names, so its
        chain ID is used. The target gets the same repository and ``version``.

    platform
        ``OS/ARCHITECTURE`` of images in an index; this machine's by default.

    Returns ``bundle``, ``hash`` (``sha256:…`` of the file), ``size`` (bytes), ``source``, ``target``, ``platform``,
    under ``changes`` how many paths were ``added``, ``modified`` and ``removed`` as in :py:func:`baseimg.diff`; under
    ``dropped`` how many ``paths`` and ``attributes`` the layers' directories have and the image does not; ``fixes``
    (package → advisories) and ``unread`` (package → why its advisories are not all known: slim images have no
    changelogs); with a key, also ``signature`` and ``key`` as :py:func:`baseimg.sign` does.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.build corp/base:12.0 corp/base:12.1 /srv/salt/baseimg/bundles/corp-base_12.0_12.1.tar
    """
    with _operation("build") as minion, minion.images(platform) as images:
        validation.check_texts(source=source, target=target, bundle=bundle)
        _given(version, "version"), _given(reference, "reference")
        if key is not None:
            pillar.signing_key(key, "key")
        pillar.check_delta(delta, "delta")
        arguments = (source, target, bundle, version, compression, _flag(test, "test"), minion.progress, key, delta)
        return _short(ops_build.build(images, *arguments, named_fixes.parse(fixes, "fixes"), reference))


def sign(bundle, key, test=False):
    """
    Sign a bundle: write an OpenSSH signature to the file ``<bundle>.sig``. Nodes that trust the key accept the bundle.

    ``ssh-keygen -Y sign -n baseimg -f KEY BUNDLE`` writes the same file, and ``ssh-keygen -Y verify`` checks it.

    bundle
        Path of the bundle.

    key
        Path of a private key in OpenSSH's format, without a passphrase: Ed25519, ECDSA P-256, or RSA.

    test
        Only report whether it would be signed.

    Returns ``changed`` (false if a signature by this key exists), ``bundle``, ``signature`` (its path),
    ``hash`` (``sha256:…`` of the bundle), and the ``key``'s fingerprint as ``ssh-keygen -l`` prints it.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.sign /srv/salt/baseimg/bundles/corp-base_12.0_12.1.tar /etc/salt/baseimg-signing-key
    """
    with _operation():
        return ops_build.sign(_text(bundle, "bundle"), pillar.signing_key(key, "key"), _flag(test, "test"))


def push(bundle, destination, test=False):
    """
    Push a bundle, and its signature if it has one, to a registry.

    Nodes fetch it as ``docker://…`` and get the same file, byte for byte. Blobs that the registry has are not sent
    again.

    bundle
        Path of a bundle that :py:func:`baseimg.build` wrote.

    destination
        ``HOST/NAME:TAG``, as in ``registry.corp:5000/baseimg/base:12.1``. Docker's ``config.json`` holds the
        credentials.

    test
        Only report whether anything would be sent.

    Returns ``changed``, ``bundle``, its ``size`` (bytes), ``tag``, whether it is ``signed``, and the two values for
    pillar: ``source`` (``docker://…@sha256:…``, the digest of the OCI manifest) and ``hash`` (that of the file).

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.push /srv/salt/baseimg/bundles/corp-base_12.0_12.1.tar registry.corp:5000/baseimg/base:12.1
    """
    with _operation("push") as minion:
        return minion.push(_text(bundle, "bundle"), pillar.push_destination(destination), _flag(test, "test"))


def inspect(bundle, verify=False, saltenv=None):
    """
    Show the manifest of a bundle: source and target, counts, digests.

    bundle
        A path, ``docker://…`` in a registry, or anything that ``cp.cache_file`` takes.

    verify
        Read the whole file and check every digest first.

    saltenv
        The environment of ``salt://`` URLs; see :py:func:`baseimg.apply`.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.inspect /srv/salt/baseimg/bundles/corp-base_12.0_12.1.tar verify=True
    """
    with _operation(saltenv=saltenv) as minion:
        source = pillar.bundle_source(bundle, None, "bundle")
        return ops_build.inspect(minion.fetch(source), _flag(verify, "verify"), source.source)


def apply(
    bundle, hash=None, base=None, protect=None, accept=None, containers="keep", saltenv=None, full=False, **kwargs
):
    """
    Change a base to the version that a bundle leads to.

    Running containers keep the old content until they are stopped and started; see ``containers``. Applying the
    version that is already live is a no-op.

    bundle
        A path on this node, ``docker://HOST/NAME@sha256:…`` or ``:TAG`` in a registry, or anything that
        ``cp.cache_file`` takes (``salt://``, ``http(s)://``, ``s3://``).

    hash
        The digest that the file must have, ``sha256:…``.

    base
        Reference or chain ID of the base, if several bases on this node show the source of the bundle.

    protect
        Patterns of images (``corp/legacy:*``), added to those in pillar. If such an image is built on the base, nothing
        changes.

    accept
        Patterns of images, image IDs or container names, added to those in pillar, that the new content may break or
        impair. Otherwise nothing changes if it would (docs/operating/impact.md).

    containers
        ``keep`` (default) touches no container. ``restart`` stops and starts those on another content, one after the
        other, and swaps the base back if one fails its gate. Or a mapping with ``mode`` and any of ``parallel`` (how
        many at once, default 1), ``order``, ``only``, ``except`` (selectors: a name pattern such as ``shop-*``,
        ``label=KEY``, ``label=KEY=VALUE``), ``timeout`` (seconds until a container must work, default 120), ``settle``
        (seconds that a container without probe and health check must run, default 10), ``probe`` (a mapping with a
        ``command`` to run in the container or a ``url`` to request, and ``match``, selectors; or a list of these), and
        ``on_failure`` (``rollback`` or ``halt``). See docs/operating/containers.md.

    saltenv
        The environment of ``salt://`` URLs, unless the URL has ``?saltenv=``. Default: that of the minion's
        configuration, or else ``base``.

    full
        True: return all data, for programs. By default the result has a short form for people: the first ten images, a
        line for each judgement and each base that is kept, and no empty keys.

    Returns ``changed``, ``base``, ``from`` and ``to`` (versions), ``generation`` (its number), ``images`` (those on
    the base), ``containers`` (running ones: ``current``, ``outdated``, which have to be stopped and started, and
    ``unknown``), and ``protected`` (protected images that were created after the change). ``kept`` lists the bases
    built on this one that do not change, each with ``base``, ``chain_id``, ``version``, ``images``, ``declared`` (the
    version that pillar declares for it, or None) and ``masked``: what these images do not get of the change (of the
    live version if nothing changes), as the number of ``paths`` and the ``packages`` (name → version shown, version of
    the change); None if it is unknown. ``masked`` lists what the images on the base do not get of the changes of bases
    below, because the version was not built on them, each with ``base``, ``version``, ``paths`` and ``packages``. A
    change also has ``bundles``, ``changes`` and ``impact``, as :py:func:`baseimg.plan` has them. ``contents`` is there
    if several contents bear the name of the base: one item for each, with ``chain_id``, ``from``, ``to``, ``changed``
    and ``images``. ``matched`` says that only a declared bundle led to the base. ``restart`` lists what happened to
    containers: ``mode``, ``restarted`` (in this order), ``started`` (an earlier run had stopped them), ``left`` (name
    → reason), ``failed`` (name → ``reason`` and the last lines of its ``log``), ``rolled_back``, and ``still_failing``
    afterwards. If a container fails its gate, the error has the code ``gate-failed`` and holds all of this as
    ``info["result"]``.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.apply salt://baseimg/bundles/corp-base_12.0_12.1.tar hash=sha256:4f9…
        salt-call baseimg.apply /srv/b.tar containers="{mode: restart, parallel: 2, except: [db-*]}"
    """
    with _operation("apply", kwargs, saltenv) as minion:
        source, name = pillar.bundle_source(bundle, hash, "bundle"), _given(base, "base")
        context = minion.context(trust=True, protect=protect, accept=accept)
        return _visible_part(ops_converge.apply(context, source, name, container_policy.parse(containers)), full)


def converge(
    name,
    version,
    bundles=None,
    chain_id=None,
    repair=False,
    protect=None,
    accept=None,
    containers="keep",
    saltenv=None,
    not_after=None,
    rollout=None,
    full=False,
    keep=1,
    require=None,
    also=(),
    **kwargs,
):
    """
    Converge a base to a declared version: swap in a generation that is on the node, or build one from bundles.

    name
        The reference of the base.

    version
        The version to show; the base's own tag means its pristine content.

    bundles
        Version → ``{"source": …, "hash": …}``, as in pillar. Several are chained if needed. Default: those that pillar
        declares for the base.

    chain_id
        The chain ID of the base, for nodes on which no image has the name.

    repair
        If the live content was changed or replaced by hand (see :py:func:`baseimg.verify`), make it again from the
        bundles; if the record is damaged or lost, write it again. A replaced content is kept as a generation of version
        ``unknown`` until it is pruned.

    protect, accept
        As for :py:func:`baseimg.apply`.

    containers
        As for :py:func:`baseimg.apply`. ``restart`` includes containers that an earlier run left on another content.

    saltenv
        The environment of ``salt://`` URLs, unless the URL has ``?saltenv=``. Default: that of the minion's
        configuration, or else ``base``.

    not_after, rollout
        Set by ``salt-run baseimg.rollout``: the job is refused (``job-stale``) if it begins after ``not_after``
        (seconds since the epoch), or if this node has rolled back the rollout with this ID.

    full
        True: return all data, for programs. By default the result has a short form for people: the first ten images, a
        line for each judgement and each base that is kept, and no empty keys.

    keep
        How many contents stay beside the live and the pristine one, as for :py:func:`baseimg.prune`; the others are
        deleted afterwards, also if the base had the version before.

    require
        Packages, absolute paths and advisories that must reach every image, in addition to those in pillar
        (``fix-missing``). If the base shows the version already, only packages and advisories are checked.

    also
        Other bases that change in the same operation, for example an OS fix and a JDK fix of a nest: mappings with
        ``name``, ``version`` and any of ``bundles``, ``chain_id``, ``repair`` and ``containers``. All are planned
        before the first changes, each container restarts once, and if one fails, the others are rolled back. ``base``,
        ``from`` and ``to`` are then separated by commas, and ``bases`` has the result of each.

    Returns what :py:func:`baseimg.apply` returns, ``repaired``, and ``pruned``: the versions ``removed``, the bytes
    ``freed``, ``warnings``, and ``in_use``, which describes for each base the generations that only stay because
    containers or mounts use them (``generations``, ``since``, ``users``, ``bytes``).

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.converge corp/base:12.0 "'12.1'" \\
            bundles="{'12.1': {source: 'salt://baseimg/bundles/corp-base_12.0_12.1.tar'}}"
    """
    with _operation("converge", kwargs, saltenv) as minion:
        targets = goals.read(minion, (name, version, bundles, chain_id, repair, containers), also, pillar.keep(keep))
        terms = minion.terms(not_after, rollout)
        context = minion.context(trust=True, protect=protect, accept=accept, require=require, terms=terms)
        return _visible_part(several_bases.converge(context, targets, minion.terms(None, rollout).check_terms), full)


def plan(
    name,
    version,
    bundles=None,
    chain_id=None,
    repair=False,
    protect=None,
    accept=None,
    containers="keep",
    saltenv=None,
    earlier=(),
    full=False,
    keep=1,
    require=None,
    also=(),
):
    """
    Show what :py:func:`baseimg.converge` would do. Changes nothing.

    name, version, bundles, chain_id, repair, protect, accept, containers, saltenv, keep, require, also
        As for :py:func:`baseimg.converge`.

    earlier
        Arguments of converges that the same run does before this one, in this order: mappings with ``name``,
        ``version`` and any of ``bundles``, ``chain_id``, ``repair`` and ``containers``. A base of a nest can change
        what the next one has to do.

    full
        True: return all data, for programs. By default the result has a short form for people: the first ten images, a
        line for each judgement and each base that is kept, and no empty keys.

    Returns what ``converge`` would return, with ``bundles`` (the versions whose bundles would be applied, oldest first)
    and ``changes`` (their counts) instead of ``generation``. ``impact`` summarises the effect on each image (see
    :py:func:`baseimg.impact`). ``preparation`` is ``needed`` if :py:func:`baseimg.prepare` would make something,
    ``ready`` if all content for the swap is on this node, ``live`` if the version is live. ``restart`` has ``mode``,
    ``batches`` (containers that would restart together, one batch after the other), ``started`` and ``left``.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.plan corp/base:12.0 "'12.0'"
    """
    with _operation(saltenv=saltenv) as minion:
        targets = goals.read(minion, (name, version, bundles, chain_id, repair, containers), also, pillar.keep(keep))
        context = minion.context(trust=True, protect=protect, accept=accept, require=require)
        return _visible_part(several_bases.plan(context, targets, goals.earlier(minion, earlier)), full)


def fetch(
    name, version, bundles=None, chain_id=None, saltenv=None, repair=False, protect=None, accept=None,
    containers="keep", require=None, also=(),
):  # fmt: skip
    """
    Fetch the bundles that :py:func:`baseimg.converge` would need, and check everything that would make it fail:
    signatures, decompressors, space and inodes, protected images, holds, and what the new content breaks. Changes
    nothing else.

    A later converge fetches nothing: it uses a cached file that has its declared digest. Bundles from HTTP need a
    declared ``hash`` for this.

    name, version, bundles, chain_id, saltenv, repair, protect, accept, containers, require, also
        As for :py:func:`baseimg.converge`.

    Returns ``needed`` (false if the base shows the version), ``base``, ``from`` and ``to`` (versions), ``bundles`` in
    the order in which they are applied (``version``, ``path`` on this node, ``bytes``, ``hash``), the total in
    ``bytes``, the node's clock in ``time`` (seconds since the epoch), and the version of the ``suite``.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.fetch corp/base:12.0 "'12.1'" \\
            bundles="{'12.1': {source: 'salt://baseimg/bundles/corp-base_12.0_12.1.tar'}}"
    """
    with _operation("fetch", saltenv=saltenv) as minion:
        targets = goals.read(minion, (name, version, bundles, chain_id, repair, containers), also)
        context = minion.context(trust=True, protect=protect, accept=accept, require=require)
        return _short({**several_bases.fetch(context, targets), "time": time.time(), "suite": _VERSION})


def prepare(
    name, version, bundles=None, chain_id=None, protect=None, accept=None, saltenv=None, require=None, also=(),
    containers="keep",
):  # fmt: skip
    """
    Make a version ready, so that :py:func:`baseimg.converge` to it is one swap, as short as a rollback.

    Everything that converge does before its swap happens here: bundles are fetched and verified, images and containers
    are judged, trials run, and the generation is made, synced, and recorded as prepared. The base shows its live
    content throughout. A reason to refuse the change also refuses the preparation.

    The preparation writes at most ``baseimg:prepare_rate`` MB a second (default 20), and half of that while other
    processes on the node wait for I/O. It has the lowest CPU priority, and holds the lock of the base. If another
    operation waits for it, for example a rollback, the preparation gives way within seconds: it deletes what it made
    and fails with ``layer-busy``. The fetched bundles stay.

    The masks of the bases above are also made (docs/design/adr/0016-nests.md). If a base below changes before the
    window's swap of this one, its own mask is made again, inside the window.

    A prepared generation survives restarts. :py:func:`baseimg.prune` deletes it once pillar declares another version.

    name, version, bundles, chain_id, protect, accept, saltenv, require, also
        As for :py:func:`baseimg.converge`.

    containers
        As for :py:func:`baseimg.converge`: a policy that this node cannot follow refuses the preparation. No container
        restarts.

    Returns ``changed`` (true if a generation was made), ``needed`` (false if the base shows the version, or a hold
    blocks it), ``base``, ``from`` and ``to`` (versions), the number of the ``generation``, the time at which it was
    ``prepared`` (unless it was live before), the ``bytes`` of its bundles, ``held`` if a hold blocks the version,
    the node's clock in ``time`` (seconds since the epoch), and the version of the ``suite``.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.prepare corp/base:12.0 "'12.1'" \\
            bundles="{'12.1': {source: 'salt://baseimg/bundles/corp-base_12.0_12.1.tar'}}"
    """
    with _operation("prepare", saltenv=saltenv) as minion:
        targets = goals.read(minion, (name, version, bundles, chain_id, False, containers), also)
        context = minion.context(trust=True, protect=protect, accept=accept, require=require)
        prepared = several_bases.prepare(context, targets, minion.prepare_rate())
        return _short({**prepared, "time": time.time(), "suite": _VERSION})


def rollback(
    base,
    to=None,
    containers="keep",
    hold=False,
    reason="rolled back",
    not_after=None,
    rollout=None,
    full=False,
    also=(),
    **kwargs,
):
    """
    Swap a generation that is on this node back in.

    It takes the same time for any size of base. Rolling back again changes nothing, unless ``to`` names another
    version.

    base
        The base's reference or chain ID.

    to
        A version, or ``pristine``; the previous generation by default.

    containers
        As for :py:func:`baseimg.apply`, but the base is never swapped again: containers that fail their gate are named,
        and the others are restarted.

    hold
        True: also block the version that is live now (see :py:func:`baseimg.hold`), so that the next ``state.apply``
        does not bring it back.

    reason
        The reason of the hold.

    not_after, rollout
        Set by ``salt-run baseimg.rollback``: the job is refused (``job-stale``) if it begins after ``not_after``
        (seconds since the epoch); this node refuses later jobs of the rollouts with these IDs.

    full
        True: return all data, for programs. By default the result has a short form for people: the first ten images, a
        line for each judgement and each base that is kept, and no empty keys.

    also
        Other bases to roll back in the same operation: mappings with ``base`` and any of ``to`` and ``containers``.
        Lower bases come first. The result is as that of :py:func:`baseimg.converge` with ``also``.

    Returns what :py:func:`baseimg.apply` returns, ``direction`` (``back``, ``forward`` or ``none``), the active
    ``holds`` of the base, and a ``note`` if pillar declares another version than the base shows now.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.rollback corp/base:12.0 hold=True reason='shop does not start'
        salt-call baseimg.rollback corp/base:12.0 to=pristine
    """
    with _operation("rollback", kwargs) as minion:
        returns = goals.returns(minion, (base, to, containers), also)
        context = minion.context(terms=minion.terms(not_after, rollout, cancels=True))
        why = _text(reason, "reason") if _flag(hold, "hold") else None
        result = several_bases.roll_back(context, returns, why)
        return _visible_part(short.of_rollback(result, to, minion.declared_version(result["base"])), full)


def hold(base, version, reason, until=None, **kwargs):
    """
    Block a version of a base on this node.

    States, ``converge`` and rollouts do not change the base to this version, and warn. Other versions are not blocked.

    base
        The base's reference or chain ID.

    version
        The version to block, a text.

    reason
        Why. ``status``, the grain and the state show it.

    until
        When the hold ends by itself: ISO 8601 in UTC, ``'2026-12-01'`` or ``'2026-12-01T04:00Z'``. Default: never.

    Returns ``changed``, ``base`` and its ``holds`` (``version``, ``reason``, ``by``, ``at``, ``until`` if it ends), and
    a ``note`` if neither this node nor pillar knows the version: it may be misspelt.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.hold corp/base:12.0 "'12.1'" reason='shop does not start'
    """
    with _operation("hold", kwargs) as minion:
        named = _text(base, "base"), _text(version, "version"), _text(reason, "reason")
        ends, known = ops_hold.utc_time(until, "until"), minion.known_versions(base)
        return _short(ops_hold.hold(minion.context(), *named, ends, known))


def give_up(base, container, **kwargs):
    """
    Stop waiting for a container that a restart stopped and that does not start.

    Until then every operation on the base tries to start it and fails, and ``status``, the grain, the beacon and the
    metrics show it. The container itself is not touched.

    base
        The base's reference or chain ID.

    container
        Name or ID of the container, as in ``restarting`` of :py:func:`baseimg.status`. Without such a container this is
        a no-op.

    Returns ``changed``, ``base``, the names ``given_up``, and those that are still ``restarting``.

    CLI Example:

    .. code-block:: bash

        salt 'web1' baseimg.give_up corp/base:12.0 shop
    """
    with _operation("give_up", kwargs) as minion:
        return _short(ops_give_up.give_up(minion.context(), _text(base, "base"), _text(container, "container")))


def unhold(base, version=None, **kwargs):
    """
    Lift the hold on a version of a base, or all holds of the base.

    base
        The base's reference or chain ID.

    version
        The version; default: all.

    Returns ``changed``, ``base`` and the remaining ``holds``, if there are any.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.unhold corp/base:12.0 "'12.1'"
    """
    with _operation("unhold", kwargs) as minion:
        return _short(ops_hold.unhold(minion.context(), _text(base, "base"), _given(version, "version")))


def note_refusal(base, version, code, message):
    """
    Note that this node refused a version, for grain, metrics, beacon and :py:func:`baseimg.status`.

    ``salt-run baseimg.rollout`` calls this if only the master sees the reason, for example a wrong clock. The node
    notes its own errors. The note ends with the next successful :py:func:`baseimg.prepare` or
    :py:func:`baseimg.converge`.

    base, version, code, message
        The declared reference, the refused version, the error's code and message.

    Returns ``changed``.

    CLI Example:

    .. code-block:: bash

        salt 'web1' baseimg.note_refusal corp/base:12.0 "'12.1'" clock-skewed 'its clock is wrong'
    """
    texts = {"base": base, "version": version, "code": code, "message": message}
    with _operation() as minion:
        return {"changed": minion.note_refusal(*(_text(text, key) for key, text in texts.items()))}


def prune(base=None, keep=1, test=False, **kwargs):
    """
    Delete generations that nothing uses. The live, the pristine and pinned generations stay, and so does the way back:
    the generation that was live before the last change, or the newest other sound one. A generation also stays
    if a mount or an open file of any process may use it, or if it was swapped out less than ``baseimg:grace`` seconds
    ago.

    base
        The base's reference or chain ID; every base with a record by default.

    keep
        How many contents stay beside these, the newest first by number; the way back counts. Generations with the same
        content count once, and damaged ones never stay.

    test
        Only list what would be deleted.

    Returns for each base the versions ``removed``, those ``kept`` and why, the content bytes ``freed`` (without files
    that another generation hard-links; an upper bound if generations share extents), ``in_use`` (as in the result of
    :py:func:`baseimg.converge`), and ``warnings``.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.prune keep=0
    """
    with _operation("prune", kwargs) as minion:
        return _short(ops_prune.prune(minion.context(), _given(base, "base"), pillar.keep(keep), _flag(test, "test")))


def live(base, paths=None, containers=None, test=False, **kwargs):
    """
    Deliver single files of the live version to running containers, without a restart.

    The file is mounted over the file that a container took from an older version of the base; the process reads the new
    content when it opens the file again. In the container the path is read-only. Stopping the container ends the mount.
    See docs/operating/containers.md.

    base
        The base's reference or chain ID.

    paths
        Absolute paths of data files, or patterns with ``*``, ``?`` and ``**``. Default: ``live`` in pillar.

    containers
        As for :py:func:`baseimg.apply`; ``only`` and ``except`` choose the containers. Nothing restarts. If a ``probe``
        fails, the container's files are detached, and the call fails. Default: the policy in pillar.

    test
        Only list what would change.

    Returns ``changed``, ``base``, its live ``version``, and ``containers``: by name the paths ``in_effect`` (they show
    the live version), of these the ``attached`` ones (mounted by this run), the ``detached`` ones, and the paths
    ``left`` alone with the reason; ``code`` and ``reason`` if the whole container was left alone. A container that
    needs nothing is absent.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.live corp/base:12.0 paths="['/etc/ssl/certs/ca-certificates.crt']" test=True
    """
    with _operation("live", kwargs) as minion:
        policy = goals.live_policy(minion, _text(base, "base"), paths, containers)
        return ops_live.deliver(minion.context(), base, policy, _flag(test, "test"))


def pin(base, version, **kwargs):
    """
    Keep the generations of a version: ``prune`` does not delete them.

    base
        The base's reference or chain ID.

    version
        A version that is on the node.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.pin corp/base:12.0 "'12.1'"
    """
    return _pin(base, version, True, kwargs)


def unpin(base, version, **kwargs):
    """
    Let ``prune`` delete the generations of a version again.

    base
        The base's reference or chain ID.

    version
        A version that is pinned.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.unpin corp/base:12.0 "'12.1'"
    """
    return _pin(base, version, False, kwargs)


def _pin(base, version, pinned, kwargs):
    with _operation("pin" if pinned else "unpin", kwargs) as minion:
        known = goals.typed_version(minion, _text(base, "base"), version, "version")
        return ops_prune.pin(minion.context(), base, known, pinned)


def status(base=None, declared=False, full=False):
    """
    Show the state of one base as data; without arguments, the short form of :py:func:`baseimg.summary`.

    base
        The base's reference or chain ID.

    declared
        Without ``base``: return every base with a record as data, and bases that pillar declares and that have no
        record yet. Each base has its declared version under ``declared``.

    full
        True: return all data, for programs. By default ``bases`` has a short form for people: one line for each
        generation and container, the first ten images, and no digests, paths and empty keys.

    Returns ``format`` (of this structure), ``suite`` (its version), ``storage``, ``refused`` (versions that this node
    refused to prepare or to converge to, each with ``base``, ``version``, ``code``, ``message`` and ``at``; until the
    next success), and ``bases``, a list: reference,
    chain ID, live version and the chain ID of the image whose content it shows, pristine version, generations (each
    with its ``users``, and why it is ``kept``; empty if the next prune may delete it), ``in_use`` (generations that
    only stay because of their users: ``generations``, ``since``, ``users``, ``bytes``), ``space`` (bytes of the
    generations that are not live), images on the base, those that were ``judged`` to break or to be impaired after they
    arrived, ``mixed`` (bases below, with ``version``, whose files show through although the base must show its own
    image), ``unmasked`` (images that are versions of the base, arrived later, and show files of its live version),
    ``holds``, ``running`` (the process that works on the base; empty without one), ``interrupted`` (true if an
    operation crashed; the next one recovers), running containers by the content they run on, and ``restarting``
    (containers that a restart stopped and that have not passed their gate since). ``fixes`` has the new versions of
    the packages that the live generation changes, and ``evidence`` for each running container the ``version`` that
    it has mounted, its ``content``, the packages of ``fixes`` that are ``missing`` in it, and the ``verdict`` and
    ``reasons`` of the judgement before the swap (``judged``: of the ``container`` itself, or of its ``image`` if it
    is newer). A record that cannot be read is an item with its ``path`` and an ``error``.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.status
        salt-call baseimg.status corp/base:12.0
    """
    if base is None and not declared and not full:
        return summary()
    with _operation() as minion:
        engine = minion.engine()
        statuses = ops_status.select(engine, _given(base, "base"), minion.declared()["bases"] if declared else None)
        refused = minion.standing_refusals(statuses, base is None)
        answer = {"format": _FORMAT, "suite": _VERSION, "storage": engine.storage, "refused": refused}
        return {**answer, "bases": statuses} if full else short.of_status(answer, statuses)


def summary():
    """
    Show every base on this node in one line.

    The line has the reference, live version, former version, number of images, and what is unusual. Below it is one
    line for each image, container or hold that needs an operator.

    Bases without a record are listed if pillar declares them.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.summary
    """
    with _operation() as minion:
        statuses = ops_status.survey(minion.engine(), minion.declared_bases())
        return short.of_node(statuses, minion.standing_refusals(statuses))


def fixes(base=None, packages=None, full=False):
    """
    Show which fixes are in effect in which images and containers on this node, and why others are not. Changes nothing.
    docs/operating/fixes.md explains the result.

    A fix is in effect in an image or container that shows the new files of the fixed package. The files decide, not the
    package database: own copies, masks of a nest, mounted volumes and older content hide the new files.

    base
        A reference or chain ID. Default: every base with a record, and every base that pillar declares.

    packages
        Names of packages. Images and containers have ``installed`` then: their versions in the database of the image's
        own layers, if they differ from those of the base; of ``others`` on no base in the image's database.

    full
        True: return all data, for programs and for the mine (``mine_functions``). By default ``bases`` has lines for
        people: what is fixed, then each image and container in which a fix is not in effect, worst first.

    Returns ``format``, ``at`` (the time), ``bases``, ``errors`` (bases and stores that could not be examined), and
    ``others`` (images with layers on none of these bases, with the chain IDs of these layers; ``engine`` names
    another engine of this node that has the image). Each base has ``installed`` (package → version), ``updates``
    (package → ``from``, ``to``, empty for a removed package, ``advisories`` with their source, ``unread``),
    ``awaited`` (the declared version if another one is live, with its ``updates``, the ``reason``, and whether it
    is ``held``), ``unknown`` (why nothing can be said), and ``images`` and ``containers``, whose ``pending`` has
    the updates that are not in effect: package → ``state``, ``reason``, ``paths``, ``hidden``. States: ``after
    restart``, ``overridden``, ``split``, ``masked``, ``unknown``. A container's ``live`` has the updates whose
    files are all mounted into it (``in effect live``).
    Every update in ``awaited`` is ``not here``, except if ``has_awaited`` says that the image has that version itself;
    then ``awaited_pending`` has those that are not in effect.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.fixes
        salt-call baseimg.fixes corp/base:12.0 full=True --out=json
    """
    with _operation() as minion:
        name, names = _given(base, "base"), validation.texts(packages, "packages")
        result = ops_fixes.fixes(minion.context(), minion.declared()["bases"], name, names)
        if name is None:
            ops_fixes.save(__opts__["cachedir"], result)
        return result if full else fixes_summary.short(result)


def containers(base):
    """
    Show the containers on a base as the engine sees them, stopped ones included.

    base
        The base's reference or chain ID.

    Returns ``base``, and ``containers``: by ID ``name``, ``state``, ``health`` (empty without a health check),
    ``restarts`` (by its policy, since its last start), ``exit_code``, and ``since`` (its last start). A rollout
    compares them while it soaks.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.containers corp/base:12.0
    """
    with _operation() as minion:
        return ops_health.health(minion.engine(), _text(base, "base"))


def sbom(name, facts=False):
    """
    Return an SBOM of what an image or a container really shows on this node: CycloneDX 1.6.

    docs/operating/scanners.md explains it. Each package has its purl and its version as delivered. An updated package
    has its pedigree: the old version, the fixed advisories, and the bundle with its signer and the time of its swap. A
    package whose update is not, or only partly, visible has the properties ``baseimg:state``, ``baseimg:reason`` and
    ``baseimg:paths``, and its old version.

    name
        Reference or ID of an image, or name or ID of a container.

    facts
        True: return the facts that a document is made of, for ``salt-run baseimg.sbom``: a node does not need the
        Python packages ``cyclonedx-python-lib`` and ``packageurl-python`` then.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.sbom corp/app:1 --out=json
    """
    with _operation() as minion:
        answer = ops_sbom.facts(minion.context(), _text(name, "name"))
        if facts:
            return answer
        try:
            from baseimg_core.report import sbom as report_sbom
        except ImportError as exc:
            hint = "salt-pip install cyclonedx-python-lib packageurl-python, or run salt-run baseimg.sbom on the master"
            raise _refused("dependency-missing", f"documents cannot be made on this node: {exc}", hint) from exc
        return report_sbom.document(answer, __opts__["id"], _VERSION)


def impact(base, bundle=None, full=False, saltenv=None):
    """
    Show whether every image and container on a base still runs on a new version, and whether the fix arrives.

    It changes nothing. docs/operating/impact.md explains the result.

    base
        The base's reference or chain ID.

    bundle
        The bundle of the new version: a path, a URL that ``cp.cache_file`` takes, or a version that pillar declares for
        this base. Default: the version that pillar declares; without one, only images and containers are shown.

    full
        True: return every image and container.

    saltenv
        The environment of ``salt://`` URLs; see :py:func:`baseimg.apply`.

    Returns ``format`` (of this structure), ``base``, ``version`` (shown now), ``to`` (the new version), the numbers of
    ``images``, of ``containers`` by content, of ``verdicts``, of changed paths by class in ``changes``, and of
    ``packages``; the names of changed fields in ``config``; and under ``worst`` ten lines about images and containers
    that do not get all of the change, worst first.

    With ``full``: ``format``, ``base``, ``chain_id``, ``version`` and ``generation`` (shown now), ``to``
    (the new version), ``changes`` (counts of paths by class), ``packages`` (``added``, ``removed``, ``changed``, or why
    they are ``unknown``; absent if the bundle does not list packages), ``config`` (old and new values of the base's
    configuration, which is never delivered), ``verdicts`` (counts of images by verdict: ``breaks``, ``impaired``,
    ``not-checked``, ``blocked``, ``partly``, ``effective``), ``images``, worst first, and ``containers``, stopped ones
    included. An image has its ``verdict``, ``reasons`` (worst first, each with ``verdict``, ``code``, ``subject``,
    ``text`` and ``remedy``), ``covered`` (how many changed paths its own layers override, and of how many),
    ``shadowed`` (the first 50 of these with reasons, the most important first), and ``warnings``. A container has
    ``verdict``, ``reasons``, ``state``, ``since``, ``health``, ``restart``, ``project`` (of compose), and the
    ``generation`` that it has mounted, and ``live`` if single files are mounted into it (path → version). ``kept`` and
    ``masked`` are as in :py:func:`baseimg.converge`; images on a base that stays exact have no verdict. ``contents`` is
    there if several contents bear the name: ``chain_id``, ``version`` and ``to`` of each, with all their images and
    containers in the lists.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.impact corp/base:12.0
        salt-call baseimg.impact corp/base:12.0 salt://baseimg/bundles/corp-base_12.0_12.1.tar
    """
    with _operation("impact", saltenv=saltenv) as minion:
        declared = minion.bundles(_text(base, "base"), bundle)
        result = impacting.impact(minion.context(trust=True), base, declared)
        return result if full else _short(short.of_impact(result))


def judge(bundle, images, accept=None, attach=False, key=None, platform=None):
    """
    Judge which images a bundle breaks, and which ones get its changes, before it is published.

    It needs no node: images are read where they are, as packed. docs/operating/pipelines.md has the same as the command
    ``baseimg judge``.

    bundle
        A path, ``docker://…`` in a registry, or anything that ``cp.cache_file`` takes.

    images
        A list of images; see :py:func:`baseimg.build`. If the base itself is one of them, it provides the configuration
        that the others inherited.

    accept
        List of patterns of images whose verdict does not count for the exit code.

    attach
        True: write the result to the file ``<bundle>.judged``, or into the registry that the bundle is in. Plans of
        rollouts show it (:py:func:`baseimg.judgement`).

    key
        Path of a private key to sign the attached result with.

    platform
        ``OS/ARCHITECTURE`` of images in an index; this machine's by default.

    Returns ``format``, ``time`` (UTC), ``bundle``, ``hash``, ``source``, ``target``, ``version``, ``verdicts``
    (counts), ``images``, worst first, each with its ``verdict``, ``reasons``, ``covered``, ``shadowed`` and
    ``warnings`` as in :py:func:`baseimg.impact`, and whether it is ``accepted``; and ``retcode``, the exit code: 0
    effective, 1 breaks, 2 not checked, 3 partly or blocked, 4 impaired. An image that cannot be read is
    ``not-checked``.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.judge /srv/salt/baseimg/bundles/corp-base_12.0_12.1.tar "['corp/shop:1', 'corp/billing:4']"
    """
    with _operation("judge") as minion:
        result = judge_images(minion, bundle, images, accept, attach, key, platform)
    __context__["retcode"] = result["retcode"]
    return result


def judgement(base, bundle=None, saltenv=None):
    """
    Show the judgement that is attached to a bundle: the verdicts about applications when the base was built.

    It decides nothing: this node judges its own images (:py:func:`baseimg.impact`). ``salt-run baseimg.plan`` shows its
    line.

    base
        The base's reference or chain ID.

    bundle
        As for :py:func:`baseimg.impact`.

    saltenv
        The environment of ``salt://`` URLs; see :py:func:`baseimg.apply`.

    Returns ``line``; with a judgement also its ``time``, the ``hash`` of the bundle, its ``version``, ``verdicts``
    (counts), ``images`` (the verdict of each image that is not effective, worst first), and ``signed_by``, the identity
    of the trusted key that signed it. A judgement of another bundle, or without a trusted signature where this node
    requires signatures, is refused.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.judgement corp/base:12.0
    """
    with _operation(saltenv=saltenv) as minion:
        return ops_judgement.read(minion.context(trust=True), minion.bundles(_text(base, "base"), bundle))


def trial(base, version, image, command="auto", expect=0, timeout=60, memory=512, saltenv=None, **kwargs):
    """
    Run a command of an image over a version of its base, without changing the base.

    The new content is staged if this node does not have it, the image's own layers are mounted over it below a
    throw-away directory, and the node's ``runc`` or ``crun`` runs the command. The command has the user, the
    environment and the working directory of the image, the default capabilities of containers, no network and no mounts
    of the host. Nothing remains afterwards. No verdict and no protected image refuses a trial.

    base
        The base's reference or chain ID.

    version
        The new content: a version that pillar declares for this base, or a bundle's path or URL.

    image
        The reference or ID of an image on the base.

    command
        A command line, which ``/bin/sh`` of the image runs, or a list of words. ``auto`` (default) executes nothing of
        the image but its dynamic loader, which lists the libraries of the programs that the image starts.

    expect
        The exit code that passes, or a text that the output must contain.

    timeout
        Seconds after which the command is killed.

    memory
        The limit of memory and of files that the command writes, in MB.

    saltenv
        The environment of ``salt://`` URLs; see :py:func:`baseimg.apply`.

    Returns ``base``, ``version``, ``image``, ``passed``, the ``reason`` if it did not pass, the ``exit_code`` (unless
    the command did not start or was killed), and the end of its ``output``, at most 64 KiB; lines
    of stdout and of stderr have no common order. ``salt-call`` exits with
    1 if the trial did not pass.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.trial corp/base:12.0 "'12.1'" corp/shop:7 '/app/run --check'
        salt '*' baseimg.trial corp/base:12.0 /srv/b.tar corp/shop:7 command=auto
    """
    with _operation("trial", kwargs, saltenv) as minion:
        declared = minion.bundles(_text(base, "base"), _text(version, "version", minion.known_versions(base)))
        trials = container_trial.parse([{"command": command, "expect": expect, "timeout": timeout, "memory": memory}])
        result = ops_trial.trial(minion.context(trust=True), base, declared, _text(image, "image"), *trials)
    __context__["retcode"] = 0 if result["passed"] else 1
    return _short(result)


def verify(base=None, deep=False):
    """
    Compare the live and the pristine content with their indexes, and the pristine one with the engine's checksum.

    Damage is recorded until ``deep`` finds the content sound. Meanwhile no generation is built from the damaged
    content, no rollback returns to it, and ``baseimg.status``, states, metrics and the grain show it.

    base
        The base's reference or chain ID; every base with a record by default.

    deep
        Read every file, and check the pristine content against the engine's own checksum (the diff ID, as
        ``docker save`` does). Takes as long as reading the layer. Without it, only files
        whose inode or ctime changed are read.

    Returns for each base ``ok``, ``findings`` (paths that are ``missing`` or ``added``, or whose ``content`` or
    ``metadata`` differs), and the state of the ``pristine`` content: ``proven``, ``unproven`` (the engine keeps no
    checksum), ``damaged``, ``missing`` or ``not checked``. ``shared`` lists the versions that hard-link a changed file
    of the live content and are damaged with it. ``mixed`` lists the bases below, with ``version``, whose files show
    through although the base must show its own image; with ``deep``, findings ``below`` are paths at which they do,
    against the record. ``proof`` says how the live content was proven: ``bundle``,
    ``from-start``, ``engine``, ``assumed``, or absent for a content that was never compared with an image. Empty lists
    are left out. The exit code is 1 if a base is not ``ok``.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.verify
        salt-call baseimg.verify corp/base:12.0 deep=True
    """
    with _operation() as minion:
        name, engine = _given(base, "base"), minion.engine()
        checked = bases.recorded(engine) if name is None else bases.locate_all(engine, name)
        results = [ops_verify.verify(engine, checked_base, _flag(deep, "deep")) for checked_base in checked]
    __context__["retcode"] = 0 if all(result["ok"] for result in results) else 1
    return _short(results)


def history(base):
    """
    List every swap of a base's content on this node, oldest first.

    base
        The base's reference or chain ID.

    Returns for each swap what docs/reference/store-format.md lists, without empty keys.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.history corp/base:12.0
    """
    with _operation() as minion:
        return _short(declared_bases.history(minion.engine(), _text(base, "base")))


def metrics(path=None):
    """
    Write metrics for Prometheus: for each base its versions, generations, space, drift, containers, last activation.

    path
        The file to write for node_exporter's textfile collector: an absolute path that ends in ``.prom``. The file is
        replaced atomically and is world-readable. Default: return the text.

    Returns the text, or the ``path`` and the number of ``bytes`` written.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.metrics
        salt '*' baseimg.metrics path=/var/lib/prometheus/node-exporter/baseimg.prom
    """
    with _operation() as minion:
        public_file.check_path(path, ".prom")
        text = ops_status.metrics(minion.engine(), _VERSION, minion.declared()["bases"], __opts__["cachedir"])
        return text if path is None else public_file.write(path, text)


def adopt(overlay_dir=None, **kwargs):
    """
    Take over a base that the old shell scripts updated on this node. Nothing that a container sees changes.

    The live content becomes a generation with the version that the scripts gave it. The original content is restored
    from their backups and from files that they did not touch. It is kept if it has the layer's diff ID, as ``docker
    save`` would check (``pristine: proven``). Otherwise it is ``unproven``: the base stays as it is, and ``hint`` says
    what to do.

    overlay_dir
        The directory that holds the scripts' ``tmp/``; the engine's ``overlay2`` by default.

    Returns ``changed``, ``base``, ``chain_id``, ``version``, ``generation``, ``pristine``, ``pristine_version``,
    ``updates`` (the versions that the scripts gave the base, oldest first), ``misplaced`` (those that seem to be of
    another base, with its ``image``: the scripts copied them over this base), ``restored`` (number of files by where
    they came from), ``missing`` (20 paths at most), ``images`` on the base, ``removable`` (directories of the scripts)
    with their ``space`` in bytes, and a ``hint``.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.adopt
    """
    with _operation("adopt", kwargs) as minion:
        if overlay_dir is not None:
            validation.absolute_path(overlay_dir, "overlay_dir")
        return _short(ops_adopt.adopt(minion.context(), overlay_dir))


def engines():
    """
    List the container engines on this node, the one that baseimg uses first. Fails only for a wrong declaration.

    Returns for each its ``kind`` (``docker``, ``podman``, ``containerd``), ``address``, ``version``, ``storage``,
    ``supported``, ``chosen``, and the ``reason`` if it is not supported. ``baseimg:engine`` in the minion's
    configuration or pillar chooses another engine than the first.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.engines
    """
    with _operation() as minion:
        return _short(minion.engines())


def import_legacy(archive, source, bundle, version=None, compression="zstd", saltenv=None):
    """
    Convert an archive of the old shell scripts to a bundle, on a machine that has the source image.

    The same archive and source give a byte-identical file.

    archive
        ``BASE-<version>-diff.tar.gz``: a path, or anything that ``cp.cache_file`` takes.

    source
        Reference or ID of the image for which the archive was made.

    bundle
        Path of the file to write.

    version
        The name of the new content; default: the version in the archive's name.

    compression
        ``zstd`` or ``gzip``.

    saltenv
        The environment of ``salt://`` URLs; see :py:func:`baseimg.apply`.

    Returns what :py:func:`baseimg.build` returns, and ``not_expressed``: what such an archive cannot express, with the
    ``paths`` for which it matters. Prefer ``build`` if the target image still exists.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.import_legacy /srv/old/BASE-12.1-diff.tar.gz corp/base:12.0 /srv/salt/baseimg/bundles/b.tar
    """
    with _operation("import", saltenv=saltenv) as minion:
        validation.check_texts(source=source, bundle=bundle)
        given, named = pillar.bundle_source(archive, None, "archive"), _given(version, "version")
        arguments = (source, bundle, named, compression, minion.progress, given.source)
        return _short(ops_import_legacy.import_legacy(minion.engine(), minion.fetch(given), *arguments))


def declared(what="bases"):
    """
    Return the pillar below ``baseimg``, checked and with defaults. SLS files loop over it.

    what
        ``bases`` (by reference) or ``builds`` (by the bundle's path).

    A mistake is an error that names the key, its value, and what was expected.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.declared
    """
    with _operation() as minion:
        declarations = minion.declared()
        return declarations[validation.choice(what, "what", declarations)]


def doctor(full=False):
    """
    Check everything that must be right before a base can change.

    That is Python, Salt, the installation, Python packages, top files, pillar, trusted keys, the engine and its store,
    the minion's mount namespace, the file system (exchange, trusted xattrs, syncfs, reflink), space and inodes, the
    grain, the clock, and the registries in pillar. It changes nothing but the grain ``baseimg:ready``.

    full
        True: return data for programs, instead of one line for each check.

    Returns lines, failures first: the level (``failed``, ``warning``, ``ok``), the subject, the code, the finding, and
    the command that mends it. With ``full``: ``format``, ``ready``, the node's clock in ``time`` (seconds since the
    epoch), and ``checks``, each with ``subject``, ``level``, ``message``, ``code`` and ``command``. The exit code is 1
    if a check failed (docs/operating/exit-codes.md).

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.doctor
        salt-call baseimg.doctor full=True --out=json
    """
    try:
        with _operation() as minion:
            checks = minion.examine(salt.version.__version__, _VERSION)
            findings, lines = diagnosis.as_dict(checks), diagnosis.lines(checks)
    except CommandExecutionError as exc:  # no core, a core of another version, or not root
        checks = _checks_without_core(exc.info)
        findings, lines = {"format": 1, "ready": False, "checks": checks}, [_line(check) for check in checks]
    __context__["retcode"] = 0 if findings["ready"] else 1
    return {**findings, "time": time.time()} if full else lines


def order():
    """
    Return the references of the bases that pillar declares, in the order in which they converge.

    Returns to older content come first, lower bases before upper ones; then all others, upper bases before lower ones.
    The SLS file orders its states by it, so the order of bases in pillar means nothing.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.order
    """
    with _operation() as minion:
        return minion.order()


def problem():
    """
    Return why no base can be converged on this minion, as one line for a comment; an empty text if nothing is wrong.

    It looks at the installation and at the pillar. The SLS files ask it first, so that a mistake fails one state and
    leaves the other states of the run alone.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.problem
    """
    try:
        with _operation() as minion:
            minion.declared()
            pillar.check_top_level(__pillar__)
    except CommandExecutionError as exc:
        return f"[{exc.info['code']}] {exc.info['message']} -- {exc.info['hint']}"
    return ""


def _visible_part(result, full):
    """The result of an operation; by default without empty keys."""
    return result if full else short.of_operation(result)


@contextlib.contextmanager
def _operation(action="", kwargs=None, saltenv=None):
    """The minion, for one operation. Errors of the core become Salt's; unknown arguments are refused."""
    _check_installation()
    minion = Minion(__salt__, __opts__, __pillar__, action, _pub(kwargs or {}), saltenv)
    try:
        with translate_os_errors("a file of this node", "use"):
            yield minion
        minion.finish()
    except BaseimgError as exc:
        minion.fail(exc)
        raise _error(str(exc), exc.as_dict()) from exc
    finally:
        minion.close()


def _pub(kwargs):
    """Who published the job, from the arguments that Salt adds. Refuses unknown arguments."""
    if unknown := salt.utils.args.clean_kwargs(**kwargs):
        salt.utils.args.invalid_kwargs(unknown)
    jid = kwargs.get("__pub_jid")
    return {"user": kwargs.get("__pub_user", "root"), "jid": jid} if jid else {}  # salt-call has a job ID but no user
