"""
Bring newer versions of a base image to the images that are built on it, without rebuilding or pulling them.

:depends: the Python package ``docker``; ``zstandard`` for bundles that are compressed with zstd,
    ``cryptography`` for signatures
:configuration: the engine's address is ``docker.url`` in the minion's configuration, else ``DOCKER_HOST``, else the
    default socket of Docker, Podman or containerd, whichever is there; ``baseimg:engine`` declares another
    (:py:func:`baseimg.engines`). ``baseimg:lock_timeout`` (seconds, default 60) is how long to wait for another job on
    the same base, ``baseimg:reserve`` (percent, default 2) how much of the layers' file system must stay free.
    ``baseimg:link`` (``auto``, ``reflink``, ``copy`` or ``hardlink``) controls how a new generation shares data with
    the previous one (docs/reference/store-format.md): extents if the file system can, else the inodes of large files.
    ``baseimg:allow_devices: true`` takes bundles with device nodes other than those that every container has.
    ``baseimg:trusted_keys`` (identity: line of a ``.pub`` file) says who must have signed a bundle, and
    ``baseimg:require_signature: false`` lets unsigned ones pass; both from the minion's configuration, or else pillar.

Every failure is a ``CommandExecutionError`` whose ``info`` holds a stable ``code``, the message and a hint.
"""

import contextlib
import os
import sys

import salt.utils.args
from salt.exceptions import CommandExecutionError

getattr(sys.modules.get("baseimg_core"), "purge_if_stale", bool)()

__virtualname__ = "baseimg"
_VERSION = "0.1.0"
_FORMAT = 1

try:
    import baseimg_core

    # another version may lack what is imported next, and the versions are the better reason then
    if baseimg_core.__version__ == _VERSION:
        from baseimg_core.errors import ArgumentInvalid, BaseimgError
        from baseimg_core.minion import Minion
        from baseimg_core.model.containers import policy as container_policy
        from baseimg_core.model.policy import pillar
        from baseimg_core.ops import adopt as ops_adopt
        from baseimg_core.ops import bases
        from baseimg_core.ops import build as ops_build
        from baseimg_core.ops import converge as ops_converge
        from baseimg_core.ops import fetch as ops_fetch
        from baseimg_core.ops import impact as impacting
        from baseimg_core.ops import import_legacy as ops_import_legacy
        from baseimg_core.ops import prune as ops_prune
        from baseimg_core.ops import status as ops_status
        from baseimg_core.ops import verify as ops_verify
    _MISSING = None
except ImportError as exc:
    _MISSING = str(exc)


def __virtual__():
    if _MISSING:
        return False, f"baseimg cannot be loaded: {_MISSING} (needs its own _utils and the Python package docker)"
    if baseimg_core.__version__ != _VERSION:
        found = f"{baseimg_core.__version__} in {os.path.dirname(baseimg_core.__file__)}"
        return False, f"baseimg {_VERSION} met the core of version {found}: install it in one way only, then sync again"
    if os.name != "posix" or os.geteuid() != 0:
        return False, "baseimg changes layer directories and must run as root"
    return __virtualname__


def layer(image):
    """
    Tell where an image's top layer lives on this machine.

    image
        Reference or ID of an image.

    Returns ``image``, ``chain_id``, ``diff_id`` (of the top layer), ``path`` (the top layer's directory), ``lower``
    (the directories below it, top first) and ``storage``. Chain IDs are those of the OCI image spec, config.md.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.layer corp/base:12.0
    """
    with _operation() as minion:
        pillar.text(image, "image")
        return ops_build.layer(minion.engine(), image)


def diff(source, target):
    """
    Compare what two images show, path by path.

    source, target
        References or IDs of two images.

    Returns ``counts`` and the changes themselves under ``added``, ``modified`` and ``removed``: each with its ``path``,
    ``type``, and for a modified path what ``differs``. A removed directory is one change.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.diff corp/base:12.0 corp/base:12.1
    """
    with _operation("diff") as minion:
        pillar.text(source, "source")
        pillar.text(target, "target")
        return ops_build.diff(minion.engine(), source, target, minion.progress)


def build(source, target, bundle, version=None, compression="zstd", test=False, key=None, delta=None):
    """
    Build the bundle that brings ``source`` to ``target``. The same images give a byte-identical file.

    source, target
        References or IDs of two images on this machine.

    bundle
        Path of the file to write. It is written under a temporary name, readable by root only, and renamed.

    version
        What the new content is called; the target's tag by default.

    compression
        ``zstd``, or ``gzip`` for nodes without the Python package ``zstandard``.

    test
        Only compare and tell; ``digest`` and ``size`` are empty then.

    key
        Path of a private key to sign the bundle with; see :py:func:`baseimg.sign`.

    delta
        Encode the changes as the difference to the old files' contents, which is several times smaller: ``only``,
        ``both`` (and in full, for nodes whose files may differ or that lack ``zstandard``), or ``auto``, which keeps
        whichever of the two is smaller. A node needs ``zstandard`` for it, whatever ``compression`` says of the other.

    Returns ``bundle``, ``digest`` (``sha256:…`` of the file), ``size`` (bytes), ``source``, ``target``, and under
    ``changes`` how many paths were ``added``, ``modified`` and ``removed``; with a key, also ``signature`` and ``key``
    as :py:func:`baseimg.sign` does.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.build corp/base:12.0 corp/base:12.1 /srv/salt/baseimg/bundles/corp-base_12.0_12.1.tar
    """
    with _operation("build") as minion:
        for name, value in (("source", source), ("target", target), ("bundle", bundle)):
            pillar.text(value, name)
        if version is not None:
            pillar.text(version, "version")
        if key is not None:
            pillar.signing_key(key, "key")
        pillar.check_delta(delta, "delta")
        return ops_build.build(
            minion.engine(), source, target, bundle, version, compression, bool(test), minion.progress, key, delta
        )


def sign(bundle, key, test=False):
    """
    Sign a bundle, so that nodes that trust the key use it: an OpenSSH signature in the file ``<bundle>.sig`` beside it.

    ``ssh-keygen -Y sign -n baseimg -f KEY BUNDLE`` writes the same file, and ``ssh-keygen -Y verify`` checks it.

    bundle
        Path of the bundle.

    key
        Path of a private key in OpenSSH's format, without a passphrase: Ed25519, ECDSA P-256, or RSA.

    test
        Only tell whether it would be signed.

    Returns ``changed`` (not, where a signature by this key is there already), ``bundle``, ``signature`` (its path),
    ``digest`` (``sha256:…`` of the bundle), and the ``key``'s fingerprint as ``ssh-keygen -l`` prints it.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.sign /srv/salt/baseimg/bundles/corp-base_12.0_12.1.tar /etc/salt/baseimg-signing-key
    """
    with _operation():
        return ops_build.sign(_text(bundle, "bundle"), pillar.signing_key(key, "key"), bool(test))


def push(bundle, destination, test=False):
    """
    Bring a bundle to a registry, with the signature beside it where there is one. Nodes take it from there as
    ``docker://…``, and get the same file to the byte. What the registry has already is not sent again.

    bundle
        Path of a bundle that :py:func:`baseimg.build` wrote.

    destination
        ``HOST/NAME:TAG``, as in ``registry.corp:5000/baseimg/base:12.1``. Who we are says Docker's ``config.json``.

    test
        Only tell whether anything would be sent.

    Returns ``changed``, ``bundle``, its ``size`` (bytes), ``tag``, whether it was ``signed``, and what pillar declares:
    ``source`` (``docker://…@sha256:…``, where the digest is that of the OCI manifest) and ``hash`` (that of the file).

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.push /srv/salt/baseimg/bundles/corp-base_12.0_12.1.tar registry.corp:5000/baseimg/base:12.1
    """
    with _operation("push") as minion:
        return minion.push(_text(bundle, "bundle"), pillar.pushed_to(destination), bool(test))


def inspect(bundle, verify=False):
    """
    Show a bundle's manifest: source and target, figures, digests.

    bundle
        A path, ``docker://…`` in a registry, or anything that ``cp.cache_file`` takes.

    verify
        Read all of it and compute every digest again first.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.inspect /srv/salt/baseimg/bundles/corp-base_12.0_12.1.tar verify=True
    """
    with _operation() as minion:
        return ops_build.inspect(minion.fetch(pillar.bundle_source(bundle, None, "bundle")), bool(verify))


def apply(bundle, hash=None, base=None, protect=None, containers="keep", **kwargs):
    """
    Bring a base to the version that a bundle leads to. Running containers keep the old content, undisturbed, until they
    are stopped and started; see ``containers``.

    bundle
        A path on this node, ``docker://HOST/NAME@sha256:…`` or ``:TAG`` in a registry, or anything that
        ``cp.cache_file`` takes (``salt://``, ``http(s)://``, ``s3://``).

    hash
        The digest that the file must have, ``sha256:…``.

    base
        Reference or chain ID of the base, where several on this node show what the bundle starts from.

    protect
        Patterns of images (``corp/legacy:*``), beside those in pillar: where such an image is built on the base,
        nothing is changed.

    containers
        What is done about running containers: ``keep`` touches none, ``restart`` stops and starts those that are not on
        the current content, one after the other, and swaps the base back where one does not work with it. Or a mapping
        with ``mode`` and any of ``parallel`` (how many at once, 1), ``order``, ``only``, ``except`` (selectors: a name
        pattern such as ``shop-*``, ``label=KEY``, ``label=KEY=VALUE``), ``timeout`` (seconds in which one must work,
        120), ``settle`` (seconds that one must run where nothing else tells whether it works, 10), ``probe`` (a mapping
        with a ``command`` to run in the container or a ``url`` to ask, and ``match``, selectors; or a list of these),
        and ``on_failure`` (``rollback``, or ``halt``). See docs/operating/containers.md.

    Returns ``changed``, ``base``, ``from`` and ``to`` (versions), ``generation`` (its number), ``images`` (those that
    share the layer), and ``containers``: the running ones on the ``current`` content, on an older one (``outdated``:
    stop and start them, a restart is not enough), and ``unknown`` where that cannot be told; and ``protected``, the
    protected images that came when it was changed already. What is there already changes nothing. ``restart`` tells
    what was done to containers: ``mode``, ``restarted`` (in this order), ``started`` (an earlier run had stopped them),
    ``left`` (name: reason), ``failed`` (name: ``reason`` and the last lines of its ``log``), ``rolled_back``, and
    ``still_failing`` after that. Where one fails, that is an error with the code ``gate-failed``, and all of this is
    its ``info["result"]``.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.apply salt://baseimg/bundles/corp-base_12.0_12.1.tar hash=sha256:4f9…
        salt-call baseimg.apply /srv/b.tar containers="{mode: restart, parallel: 2, except: [db-*]}"
    """
    with _operation("apply", kwargs) as minion:
        source = pillar.bundle_source(bundle, hash, "bundle")
        if base is not None:
            pillar.text(base, "base")
        context, restarts = minion.context(trust=True, protect=protect), container_policy.parse(containers)
        return ops_converge.apply(context, source, base, restarts)


def converge(name, version, bundles=None, chain_id=None, repair=False, protect=None, containers="keep", **kwargs):
    """
    Bring a base to a declared version: a generation that is present is swapped back in, else bundles lead there.

    name
        The base's reference.

    version
        The version to show; the base's own tag means its pristine content.

    bundles
        Version → ``{"source": …, "hash": …}``, as in pillar. Several are chained where that is needed.

    chain_id
        The base's chain ID, for nodes that have no tag of it.

    repair
        Make the content again, from the bundles, where somebody changed it (see :py:func:`baseimg.verify`) or put
        another directory in its place, and the record where it is damaged or lost. What was there is kept as a
        generation of version ``unknown`` then, until it is pruned.

    protect
        As for :py:func:`baseimg.apply`.

    containers
        What is done about running containers, as for :py:func:`baseimg.apply`. With ``restart``, also those are
        restarted that an earlier run has left on another content.

    Returns what :py:func:`baseimg.apply` returns, and whether it was ``repaired``.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.converge corp/base:12.0 "'12.1'" \\
            bundles="{'12.1': {source: 'salt://baseimg/bundles/corp-base_12.0_12.1.tar'}}"
    """
    with _operation("converge", kwargs) as minion:
        wanted = _declared(name, version, bundles, chain_id)
        context, restarts = minion.context(trust=True, protect=protect), container_policy.parse(containers)
        return ops_converge.converge(context, *wanted, bool(repair), restarts)


def plan(name, version, bundles=None, chain_id=None, repair=False, protect=None, containers="keep"):
    """
    Tell what :py:func:`baseimg.converge` would do with the same arguments, and change nothing.

    name, version, bundles, chain_id, repair, protect, containers
        As there.

    Returns what that would return, with ``bundles`` (the versions whose bundles would be applied, oldest first) and
    ``changes`` (their counts) instead of ``generation``; under ``impact`` what these would do to each image, in short
    (see :py:func:`baseimg.impact`); of ``restart`` the ``mode``, the ``batches`` (containers that would be restarted
    together, one batch after the other), and ``started`` and ``left`` as there.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.plan corp/base:12.0 "'12.0'"
    """
    with _operation() as minion:
        wanted = _declared(name, version, bundles, chain_id)
        context, restarts = minion.context(trust=True, protect=protect), container_policy.parse(containers)
        return ops_converge.plan(context, *wanted, bool(repair), restarts)


def fetch(name, version, bundles=None, chain_id=None):
    """
    Bring the bundles to this node that :py:func:`baseimg.converge` would need, and check them; nothing else is changed.

    Converging is local then: what is here and has its declared digest is not sent again. Declare a ``hash`` for bundles
    that come over HTTP, or they are.

    name, version, bundles, chain_id
        As there.

    Returns whether converging is ``needed`` at all, ``base``, ``from`` and ``to`` (versions), the ``bundles`` in the
    order in which they are applied (``version``, ``path`` on this node, ``bytes``, ``digest``), and their ``bytes``.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.fetch corp/base:12.0 "'12.1'" \\
            bundles="{'12.1': {source: 'salt://baseimg/bundles/corp-base_12.0_12.1.tar'}}"
    """
    with _operation("fetch") as minion:
        return ops_fetch.fetch(minion.context(trust=True), *_declared(name, version, bundles, chain_id))


def rollback(base, to=None, containers="keep", **kwargs):
    """
    Swap a generation that is still on this node back in. Takes no time that grows with the base.

    base
        The base's reference or chain ID.

    to
        A version, or ``pristine``; the previous generation by default.

    containers
        What is done about running containers, as for :py:func:`baseimg.apply`; but nothing leads away from the content
        that is wanted back: those that do not work with it are named, and the others are restarted all the same.

    Returns what :py:func:`baseimg.apply` returns.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.rollback corp/base:12.0
        salt-call baseimg.rollback corp/base:12.0 to=pristine
    """
    with _operation("rollback", kwargs) as minion:
        pillar.text(base, "base")
        wanted = _typed_version(minion.engine(), base, to)
        return ops_converge.rollback(minion.context(), base, wanted, container_policy.parse(containers))


def prune(base=None, keep=1, test=False, **kwargs):
    """
    Remove generations that nobody needs: not the current one, not the pristine one, none that is pinned or that a
    running container has mounted (where that cannot be told, all of them are kept).

    base
        The base's reference or chain ID; every base with a record by default.

    keep
        How many of the remaining ones are kept, the last used first. They are the quick way back.

    test
        Only tell what would be removed.

    Returns for each base the versions ``removed``, those ``kept`` and why, and the content bytes ``freed``: without
    files that others have as hard links, and an upper bound where generations share blocks.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.prune keep=0
    """
    with _operation("", kwargs) as minion:
        if not isinstance(keep, int) or keep < 0:
            raise ArgumentInvalid(f"keep is {keep!r}, expected a number of generations, 0 or more")
        if base is not None:
            pillar.text(base, "base")
        return ops_prune.prune(minion.context(), base, keep, bool(test))


def pin(base, version, **kwargs):
    """
    Keep a version's content on this node from being pruned.

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
    Let a version's content be pruned again.

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
    with _operation("", kwargs) as minion:
        pillar.text(base, "base")
        found = _text(_typed_version(minion.engine(), base, version), "version")
        return ops_prune.pin(minion.context(), base, found, pinned)


def status(base=None, declared=False):
    """
    Show what is on this node: for one base, or for every base that baseimg has a record of.

    base
        The base's reference or chain ID.

    declared
        Without ``base``: show bases that pillar declares, too, where they are on this node and nothing was applied to
        them yet. Each base has its declared version under ``declared`` then.

    Returns ``format`` (of this structure), ``storage``, and ``bases``, a list: reference, chain ID, current version
    and the chain ID of the image whose content it shows, pristine version, generations, the ``space`` in bytes that
    those take which are not current, images that share the layer, and running containers by the content they run on.
    A record that cannot be read is an item with its ``path`` and an ``error``.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.status corp/base:12.0
    """
    with _operation() as minion:
        engine = minion.engine()
        if base is None:
            found = ops_status.survey(engine, minion.declared()["bases"]) if declared else bases.survey(engine)
        else:
            found = [bases.status(engine, bases.locate(engine, _text(base, "base")))]
        return {"format": _FORMAT, "storage": engine.storage, "bases": found}


def impact(base, bundle=None):
    """
    Show every image on this machine that is built on a base, every container of them, and how much of a new version
    takes effect in each image. Changes nothing. docs/operating/impact.md tells how to read it.

    base
        The base's reference or chain ID.

    bundle
        What leads to the new version: a path, anything that ``cp.cache_file`` takes, or a version that pillar declares
        for this base. By default the version that pillar wants; without any, only images and containers are shown.

    Returns ``format`` (of this structure), ``base``, ``chain_id``, ``version`` and ``generation`` (shown now), ``to``
    (the new version), ``changes`` (paths by what they are), ``packages`` (``added``, ``removed``, ``changed``, or why
    that is ``unknown``; nothing where the bundle says nothing of them), ``verdicts`` (how many images are
    ``effective``, ``partly``, ``blocked``), ``images``, worst first, and ``containers``, also stopped ones. An image
    has its ``verdict``, under ``covered`` how many changed paths its own layers cover and of how many, the first 50 of
    those under ``shadowed`` with reasons, what matters most first, and ``warnings``. A container has ``state``,
    ``since``, ``health``, ``restart``, ``project`` (of compose), and the ``generation`` that it has mounted.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.impact corp/base:12.0
        salt-call baseimg.impact corp/base:12.0 salt://baseimg/bundles/corp-base_12.0_12.1.tar
    """
    with _operation("impact") as minion:
        declared = minion.bundles(_text(base, "base"), bundle)
        return impacting.impact(minion.context(trust=True), base, declared)


def verify(base=None, deep=False):
    """
    Compare the content that is live with what was recorded when it was made.

    base
        The base's reference or chain ID; every base with a record by default.

    deep
        Read contents, too: compare them by digest, and check the pristine content against the engine's own checksum
        (the diff ID, as ``docker save`` does). Takes as long as reading the layer.

    Returns for each base ``ok``, the ``findings`` (paths that are ``missing`` or ``added``, or whose ``content`` or
    ``metadata`` differs), and what is known of the ``pristine`` content: ``proven``, ``unproven`` (the engine keeps no
    checksum), ``damaged``, ``missing`` or ``not checked``. ``shared`` are the versions that have a changed file in
    common with the live content, as hard links, and are damaged with it.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.verify
        salt-call baseimg.verify corp/base:12.0 deep=True
    """
    with _operation() as minion:
        engine = minion.engine()
        found = bases.recorded(engine) if base is None else [bases.locate(engine, _text(base, "base"))]
        return [ops_verify.verify(engine, one, bool(deep)) for one in found]


def history(base):
    """
    List every swap of a base's content on this node, oldest first.

    base
        The base's reference or chain ID.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.history corp/base:12.0
    """
    with _operation() as minion:
        return bases.locate(minion.engine(), _text(base, "base")).store.history()


def metrics(path=None):
    """
    Tell Prometheus of every base on this node: versions, generations, space, drift, containers, the last activation.

    path
        Where to write the metrics, for node_exporter's textfile collector: an absolute path that ends in ``.prom``. The
        file is replaced atomically, and everybody may read it. Without it the text is returned.

    Returns the text, or the ``path`` and how many ``bytes`` were written.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.metrics
        salt '*' baseimg.metrics path=/var/lib/prometheus/node-exporter/baseimg.prom
    """
    with _operation() as minion:
        if path is not None and not (isinstance(path, str) and path.startswith("/") and path.endswith(".prom")):
            raise ArgumentInvalid(f"path is {path!r}, expected an absolute path that ends in .prom")
        found = ops_status.metrics(minion.engine(), _VERSION, minion.declared()["bases"])
        if path is None:
            return found
        return {"path": path, "bytes": ops_status.publish(path, found)}


def adopt(overlay_dir=None, **kwargs):
    """
    Take over the base that the old shell scripts have updated on this node. Nothing that a container sees changes.

    What is live becomes a generation with the version that the scripts gave it. The original content is restored from
    their backups and from what they did not touch, and kept where it has the layer's diff ID, as ``docker save`` would
    check (``pristine: proven``). Otherwise it is ``unproven``: the base stays as it is, and ``hint`` says what to do.

    overlay_dir
        The directory with the scripts' ``tmp/baseimg.properties`` and ``backup/``; the engine's ``overlay2`` by
        default.

    Returns ``changed``, ``base``, ``chain_id``, ``version``, ``generation``, ``pristine``, ``pristine_version``, how
    many files were ``restored`` from where, those ``missing`` (20 at most), ``images`` on the base, the ``removable``
    directories of the scripts with the ``space`` that they take in bytes, and a ``hint``.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.adopt
    """
    with _operation("adopt", kwargs) as minion:
        if overlay_dir is not None and not (isinstance(overlay_dir, str) and overlay_dir.startswith("/")):
            raise ArgumentInvalid(f"overlay_dir is {overlay_dir!r}, expected an absolute path")
        return ops_adopt.adopt(minion.context(), overlay_dir)


def engines():
    """
    List the container engines on this node, the one that baseimg takes first. Fails for a wrong declaration only.

    Returns for each its ``kind`` (``docker``, ``podman``, ``containerd``), ``address``, ``version``, the ``storage`` of
    its layers, whether it is ``supported`` and ``chosen``, and as ``reason`` why not supported. ``baseimg:engine`` in
    the minion's configuration or pillar declares another than the first.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.engines
    """
    with _operation() as minion:
        return minion.engines()


def import_legacy(archive, source, bundle, version=None, compression="zstd"):
    """
    Turn an archive of the old shell scripts into a bundle, on a machine that has the source image. The same archive and
    source give a byte-identical file.

    archive
        ``BASE-<version>-diff.tar.gz``: a path, or anything that ``cp.cache_file`` takes.

    source
        Reference or ID of the image that the archive was made for.

    bundle
        Path of the file to write.

    version
        What the new content is called; by default what the archive's name says.

    compression
        ``zstd`` or ``gzip``.

    Returns what :py:func:`baseimg.build` returns, and under ``not_expressed`` what such an archive says nothing of,
    with the ``paths`` where that matters. Prefer ``build`` where the target image still exists.

    CLI Example:

    .. code-block:: bash

        salt-call baseimg.import_legacy /srv/old/BASE-12.1-diff.tar.gz corp/base:12.0 /srv/salt/baseimg/bundles/b.tar
    """
    with _operation("import") as minion:
        for key, value in (("source", source), ("bundle", bundle)):
            pillar.text(value, key)
        if version is not None:
            pillar.text(version, "version")
        path = minion.fetch(pillar.bundle_source(archive, None, "archive"))
        return ops_import_legacy.import_legacy(
            minion.engine(), path, source, bundle, version, compression, minion.progress
        )


def declared(what="bases"):
    """
    Return what pillar declares under ``baseimg``, checked and with defaults; SLS files loop over it.

    what
        ``bases`` (by reference) or ``builds`` (by the bundle's path).

    A mistake anywhere is an error that names the key, what was found and what was expected.

    CLI Example:

    .. code-block:: bash

        salt '*' baseimg.declared
    """
    with _operation() as minion:
        found = minion.declared()
        if what not in found:
            raise ArgumentInvalid(f"what is {what!r}, expected one of: {', '.join(found)}")
        return found[what]


def _declared(name, version, bundles, chain_id):
    pillar.text(name, "name")
    pillar.check_base(version, chain_id, "ok", name)
    return name, version, pillar.bundles(bundles, f"{name}:bundles"), chain_id


def _text(value, key):
    pillar.text(value, key)
    return value


def _typed_version(engine, base, to):
    """
    The command line turns to=12.1 into a number, and 12.10 into the same one: take it only where one version fits.
    """
    if not isinstance(to, int | float) or isinstance(to, bool):
        return to
    record = bases.locate(engine, base).store.read()
    known = {one.version for one in record.generations.values()} if record else set()
    found = [version for version in known if _as_number(version) == to]
    if len(found) != 1:
        raise ArgumentInvalid(f"to is the number {to}, expected a text: write it in quotes, to=\"'{to}'\"")
    return found[0]


def _as_number(version):
    with contextlib.suppress(ValueError):
        return float(version)
    return None


@contextlib.contextmanager
def _operation(action="", kwargs=None):
    """The minion, for one operation; the core's errors become Salt's, and arguments that are none are refused."""
    minion = Minion(__salt__, __opts__, __pillar__, action, _pub(kwargs or {}))
    try:
        yield minion
    except BaseimgError as exc:
        minion.failed(exc)
        raise CommandExecutionError(str(exc), info=exc.as_dict()) from exc
    finally:
        minion.close()


def _pub(kwargs):
    """Who published the job, from what Salt adds to the arguments; unknown arguments are refused."""
    unknown = salt.utils.args.clean_kwargs(**kwargs)
    if unknown:
        salt.utils.args.invalid_kwargs(unknown)
    jid = kwargs.get("__pub_jid")
    return {"user": kwargs.get("__pub_user", "root"), "jid": jid} if jid else {}  # salt-call has a job, but no user
