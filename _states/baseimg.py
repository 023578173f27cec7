"""
Keep base images at a declared version, and bundles built.

Everything is done by the execution module ``baseimg``; here it is only compared and told.
"""

from salt.exceptions import CommandExecutionError

__virtualname__ = "baseimg"
_RECORDED = {"record": {"old": "damaged", "new": "made again"}}
_NAMED = 10


def __virtual__():
    if "baseimg.converge" in __salt__:
        return __virtualname__
    return False, "the execution module baseimg is not available: 'salt-call sys.list_functions baseimg' tells more"


def converged(name, version, bundles=None, chain_id=None, missing="ok", repair=False, protect=None, containers="keep"):
    """
    Make a base show a version, so that every container that is created or started from now on has it.

    name
        The base's reference. A node without images on this base is converged (see ``missing``).

    version
        The version to show. The base's own tag means its pristine content.

    bundles
        Version → ``source`` (a path on the node, or a URL as for ``baseimg.apply``) and ``hash`` (``sha256:…`` of the
        file). A version that is on the node already needs none; where no bundle leads there directly, several are
        chained.

    chain_id
        The base's chain ID, for nodes that know the base by no name of its own.

    missing
        ``ok``, or ``fail`` where a node without this base is a failure.

    repair
        Compare the live content with what was made, and make it again where somebody changed it or put another
        directory in its place; make the record again where it is damaged. Costs a walk over the layer at each run.

    protect
        Patterns of images (``corp/legacy:*``): where such an image is built on the base, nothing is changed, and the
        state fails.

    With ``test=True`` the comment tells in how many images the new base takes effect, in part, or not, which these are,
    and which packages change; see ``baseimg.impact``.

    containers
        ``keep`` names the running containers that are on another content and touches none. ``restart`` (or a mapping
        with ``mode: restart`` and more, see ``baseimg.apply``) stops and starts them, each has to work then, and where
        one does not the base is swapped back and the state fails.

    .. code-block:: yaml

        corp/base:12.0:
          baseimg.converged:
            - version: '12.1'
            - bundles:
                '12.1':
                  source: salt://baseimg/bundles/corp-base_12.0_12.1.tar
                  hash: sha256:4f9…
            - containers:
                mode: restart
                order: [label=tier=db]
                except: [label=critical]
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    if missing not in ("ok", "fail"):
        ret["result"] = False
        ret["comment"] = f"[argument-invalid] missing is {missing!r}, expected one of: ok, fail"
        return ret
    wanted = (name, version, bundles, chain_id, repair, protect)
    try:
        if __opts__["test"]:
            return _would_converge(ret, __salt__["baseimg.plan"](*wanted, containers=containers))
        return _converged(ret, __salt__["baseimg.converge"](*wanted, containers=containers))
    except CommandExecutionError as exc:
        if _code(exc) == "base-absent" and missing == "ok":
            ret["comment"] = f"No image on this node is built on {name}: nothing to do"
            return ret
        ret["changes"] = _unfinished(exc)
        return _failed(ret, exc)


def built(name, source, target, version=None, compression="zstd", key=None, delta=None):
    """
    Have a bundle that leads from one image to another, on the machine that has both.

    name
        Path of the bundle file.

    source, target
        References of the two images. Where they have moved on, the bundle is built again.

    version
        What the target's content is called; the target's tag by default.

    compression
        ``zstd`` or ``gzip``.

    key
        Path of a private key that the bundle is to be signed with; see ``baseimg.sign``.

    delta
        ``only``, ``both`` or ``auto``; see ``baseimg.build``.

    .. code-block:: yaml

        /srv/salt/baseimg/bundles/corp-base_12.0_12.1.tar:
          baseimg.built:
            - source: corp/base:12.0
            - target: corp/base:12.1
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    test = __opts__["test"]
    try:
        images = [__salt__["baseimg.layer"](image)["chain_id"] for image in (source, target)]
        old = _present(name)
        if old and _matches(old, images, version, compression, delta):
            return _signed(ret, old, __salt__["baseimg.sign"](name, key, test) if key else None)
        new = __salt__["baseimg.build"](source, target, name, version, compression, test, key, delta)
    except CommandExecutionError as exc:
        return _failed(ret, exc)
    counts = new["changes"]
    ret["result"] = None if test else True
    ret["changes"] = {"bundle": {"old": old and old["digest"], "new": new["digest"] or f"{source} to {target}"}}
    ret["comment"] = (
        f"{'Would build' if test else 'Built'} {name} from {source} to {target} (paths: "
        f"{counts['added']} added, {counts['modified']} modified, {counts['removed']} removed)"
    )
    if "key" in new:
        ret["comment"] += f", signed with {new['key']}"
    return ret


def pruned(name, keep=1):
    """
    Keep no more contents of a base on the node than are needed.

    name
        The base's reference or chain ID.

    keep
        How many older contents stay beside the current and the pristine one; see ``baseimg.prune``.

    .. code-block:: yaml

        corp/base:12.0:
          baseimg.pruned:
            - keep: 1
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    test = __opts__["test"]
    try:
        (done,) = __salt__["baseimg.prune"](name, keep, test)
    except CommandExecutionError as exc:
        if _code(exc) == "base-absent":
            ret["comment"] = f"No image on this node is built on {name}: nothing to do"
            return ret
        return _failed(ret, exc)
    if not done["removed"]:
        ret["comment"] = f"{done['base']} keeps no more than it needs"
        return ret
    ret["changes"] = {"removed": done["removed"], "freed": done["freed"]}
    ret["result"] = None if test else True
    verb = "would be removed" if test else "removed"
    ret["comment"] = f"{done['base']}: {verb}: {', '.join(done['removed'])} (up to {done['freed']} bytes)"
    return ret


def _converged(ret, done):
    ret["changes"] = _changes(done)
    if not done["changed"]:
        ret["comment"] = _shown(done)
    else:
        ret["comment"] = f"{done['base']} went from {done['from']} to {done['to']} for {_images(done)}"
        if done["repaired"]:
            ret["comment"] += ", since its content was not as it was made"
    restart = done["restart"]
    for word in ("restarted", "started"):
        if restart[word]:
            since = " (an earlier run had stopped them)" if word == "started" else ""
            ret["comment"] += f". {word.capitalize()}{since}: {', '.join(restart[word])}"
    ret["comment"] += _told(done)
    return ret


def _shown(done):
    shown = f"{done['base']} shows {done['to']}"
    if done["repaired"]:
        shown += f"; its record was damaged and {'would be' if __opts__['test'] else 'is'} made again"
    return shown


def _told(done):
    """What has to be said of containers and images, whatever was done."""
    told = _running(done)
    if done["protected"]:
        told += f". Protected, but came when it was changed already: {_some(done['protected'])}"
    return told


def _changes(done):
    """What an operation changed, on the base and on containers."""
    changes = {"version": {"old": done["from"], "new": done["to"]}} if done["changed"] else {}
    if done.get("repaired") and not done["changed"]:
        changes = _RECORDED
    touched = {word: done["restart"][word] for word in ("restarted", "started") if done["restart"][word]}
    return {**changes, "containers": touched} if touched else changes


def _unfinished(exc):
    """What an operation changed that failed in the end."""
    return _changes(exc.info["result"]) if isinstance(exc.info, dict) and "result" in exc.info else {}


def _would_converge(ret, planned):
    batches = planned["restart"]["batches"]
    planned["restart"]["restarted"] = [name for batch in batches for name in batch]
    ret["changes"] = _changes(planned)
    if ret["changes"]:
        ret["result"] = None
    if not planned["changed"]:
        ret["comment"] = _shown(planned) + _restarting(planned) + _told(planned)
        return ret
    ret["comment"] = f"{planned['base']} would go from {planned['from']} to {planned['to']} for {_images(planned)}"
    if planned["repaired"]:
        ret["comment"] += ", since its content is not as it was made"
    if planned["bundles"]:
        counts = planned["changes"]
        ret["comment"] += (
            f", over {' and '.join(planned['bundles'])} (paths: {counts['added']} added, "
            f"{counts['modified']} modified, {counts['removed']} removed)"
        )
    else:
        ret["comment"] += ", with a generation that is on the node"
    if planned["impact"]:
        ret["comment"] += _impact(planned["impact"])
    ret["comment"] += _restarting(planned) + _told(planned)
    return ret


def _impact(impact):
    """In how many images the new base takes effect, in which it does not wholly, and which packages change."""
    counts = ", ".join(f"{count} {verdict}" for verdict, count in impact["verdicts"].items() if count)
    told = f". It takes effect in the images: {counts}"
    for verdict in ("blocked", "partly", "unknown"):
        found = [_covered(one) for one in impact["images"] if one["verdict"] == verdict]
        if found:
            told += f". {verdict.capitalize()}: {_some(found, impact['verdicts'][verdict])}"
    for one in [one for one in impact["images"] if one["warnings"]][:_NAMED]:
        told += f". Warning, {one['image']}: {', '.join(one['warnings'])}"
    return told + (_packages(impact["packages"]) if impact["packages"] else "")


def _covered(image):
    """An image, and what matters most of what it covers."""
    what = ", ".join(f"{covered} of {changed} {word}" for word, (covered, changed) in image["covered"].items())
    paths = "".join(f"; {one['path']}: {one['reason']}" for one in image["shadowed"][:1])
    return f"{image['image']} ({what}{paths})" if what else image["image"]


def _packages(packages):
    if packages["unknown"]:
        return f". Packages: unknown, {packages['unknown']}"
    told = [f"{name} {old} to {new}" for name, (old, new) in packages["changed"].items()]
    told += [f"{name} {version} {word}" for word in ("added", "removed") for name, version in packages[word].items()]
    return f". Packages: {_some(told) or 'the same'}"


def _some(names, count=None):
    """The first of many names, and how many more there are."""
    more = (count or len(names)) - len(names[:_NAMED])
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _restarting(planned):
    """Which containers would be restarted: with "and" between them at the same time."""
    told = ""
    if planned["restart"]["started"]:
        told += f". Would be started (an earlier run had stopped them): {', '.join(planned['restart']['started'])}"
    if planned["restart"]["batches"]:
        order = ", then ".join(" and ".join(batch) for batch in planned["restart"]["batches"])
        told += f". Would be restarted: {order}"
    return told


def _images(done):
    count = len(done["images"])
    return f"{count} image{'' if count == 1 else 's'}"


def _running(done):
    """What has to be said of containers that run on another content, and go on to."""
    told = ""
    containers, left = done["containers"], done["restart"]["left"]
    if outdated := [name for name in containers["outdated"] if name not in done["restart"]["restarted"]]:
        names = ", ".join(f"{name} ({left[name]})" if name in left else name for name in outdated)
        told += f". On another content until stopped and started (a restart is not enough): {names}"
    if containers["unknown"]:
        told += f". It cannot be told what these run on: {', '.join(containers['unknown'])}"
    return told


def _present(bundle):
    """The manifest of a bundle that is there and sound, else nothing: it will be built again."""
    try:
        return __salt__["baseimg.inspect"](bundle, verify=True)
    except CommandExecutionError as exc:
        if _code(exc) in ("bundle-invalid", "digest-mismatch"):
            return None
        raise


def _signed(ret, bundle, signed):
    """What is told of a bundle that need not be built, and of its signature where one is asked for."""
    ret["comment"] = f"The bundle {bundle['bundle']} is built: {bundle['digest']}"
    if signed and signed["changed"]:
        ret["result"] = None if __opts__["test"] else True
        ret["changes"] = {"signature": {"old": None, "new": signed["key"]}}
        ret["comment"] += f"; {'would be ' if __opts__['test'] else ''}signed with {signed['key']}"
    return ret


def _matches(bundle, images, version, compression, delta):
    wanted = {None: ({"full"},), "only": ({"delta"},), "both": ({"full", "delta"},), "auto": ({"full"}, {"delta"})}
    return (
        [bundle[side]["chain_id"] for side in ("source", "target")] == images
        and set(bundle["encodings"]) in wanted.get(delta, ())
        and ("full" not in bundle["encodings"] or bundle["compression"] == compression)
        and version in (None, bundle["target"]["version"])
    )


def _code(exc):
    return exc.info.get("code") if isinstance(exc.info, dict) else None


def _failed(ret, exc):
    ret["result"] = False
    ret["comment"] = str(exc)
    if _code(exc):
        hint = exc.info["hint"] and f" -- {exc.info['hint']}"
        ret["comment"] = f"[{exc.info['code']}] {exc.info['message']}{hint}"
    return ret
