"""
Keep base images at a declared version, versions prepared, bundles built, and old generations pruned.

The execution module ``baseimg`` does the work. The states compare, and write comments.

A comment of ``converged`` has one fact a line, at most ten lines, the most severe first: the base and its transition,
containers and images that need attention, the contents of the change.
"""

import copy

import salt.utils.args
from salt.exceptions import CommandExecutionError

__virtualname__ = "baseimg"
_RECORDED = {"record": {"old": "damaged", "new": "made again"}}
_NAMED = 10  # names in one line of a comment
_ADVISORIES = 2  # advisories of one package
_LINES = 10  # lines of a comment
_NAMELESS = "sha256:"  # how the ID of an image without a name begins
_CONTENTS = 3  # lines about contents that bear the same name
_GOAL = ("name", "version", "bundles", "chain_id", "repair", "containers")  # arguments that decide what changes


def __virtual__():
    if "baseimg.converge" in __salt__:
        return __virtualname__
    return False, "the execution module baseimg is not available; 'salt-call sys.list_functions baseimg' shows why"


def converged(
    name,
    version,
    bundles=None,
    chain_id=None,
    missing="ok",
    repair=False,
    protect=None,
    accept=None,
    containers="keep",
    keep=1,
):
    """
    Converge a base to a version: every container that is created or started from now on shows it.

    name
        The reference of the base. On a node without images on this base there is nothing to do (see ``missing``).

    version
        The version to show, a text: quote it. The base's own tag means its pristine content.

    bundles
        Version → ``source`` (a path on the node, or a URL as for ``baseimg.apply``; or a list of them, of which the
        first that works is used) and ``hash`` (``sha256:…`` of the file). ``source_hash`` instead of ``hash`` takes
        what Salt's own states take, as far as it is sha256: a digest, or the path or URL of a file with digests.
        ``salt://`` means the environment of the SLS, unless the URL has ``?saltenv=``. A version that is already on the
        node needs no bundle. If no bundle leads to the version directly, several are chained. Default: those that
        pillar declares for the base.

    chain_id
        The chain ID of the base, for nodes on which no image has the name.

    missing
        ``ok``, or ``fail`` if a node without this base is a failure. The state also fails if another engine on the
        node, or another namespace of containerd, has the base.

    repair
        Compare the live content with its index. If it was changed or replaced by hand, make it again; if the record is
        damaged, write it again. Costs a walk over the layer at each run.

    protect
        Patterns of images (``corp/legacy:*``). If such an image is built on the base, nothing changes and the state
        fails.

    accept
        Patterns of images, image IDs or container names that may break or be impaired. Without it the state fails if
        the new base would break an image or a container; see ``baseimg.impact``.

    containers
        ``keep`` names the running containers that are on another content and touches none. ``restart`` (or a mapping
        with ``mode: restart`` and more, see ``baseimg.apply``) stops and starts them. Each must pass its gate; if one
        fails, the base is swapped back and the state fails.

    keep
        How many contents stay beside the live and the pristine one; the others are deleted after a change, and by later
        runs once no container uses them. See ``baseimg.prune``.

    With ``test=True`` the comment also says in how many images the new base takes effect, in which it does not, and
    which packages change; see ``baseimg.impact``.

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
        return _bad_missing(ret, missing)
    arguments = (name, version, bundles, chain_id, repair, protect, accept)
    saltenv = globals().get("__env__")  # the environment of the SLS; Salt sets it for a run of states
    try:
        if __opts__["test"]:
            planned = __salt__["baseimg.plan"](
                *arguments, containers, saltenv, earlier=_earlier(), full=True, keep=keep
            )
            return _would_converge(ret, planned)
        return _converged(ret, __salt__["baseimg.converge"](*arguments, containers, saltenv, full=True, keep=keep))
    except CommandExecutionError as exc:
        if _code(exc) == "base-absent" and missing == "ok":
            return _absent(ret, exc)
        ret["changes"] = _unfinished(exc)
        return _failed(ret, exc)


def _earlier():
    """
    Return the arguments of the states of this run that would have changed their base before this one, in order.

    With ``test=True`` nothing has changed, so the plan of a base must include these changes.
    """
    running = globals().get("__running__") or {}  # Salt sets both for a run of states
    before = []
    for low in globals().get("__lowstate__") or ():
        if low.get("state") == __virtualname__ and low.get("fun") == "converged":
            done = running.get(f"{low['state']}_|-{low['__id__']}_|-{low['name']}_|-{low['fun']}")
            if done and done.get("result") is None:
                arguments = {key: copy.deepcopy(low[key]) for key in _GOAL if low.get(key) is not None}
                before.append((done.get("__run_num__", 0), arguments))
    return [arguments for _number, arguments in sorted(before, key=lambda item: item[0])]


def built(name, source, target, version=None, compression="zstd", key=None, delta=None, fixes=None):
    """
    Build a bundle that leads from one image to another, on a machine that has both images.

    name
        Path of the bundle file.

    source, target
        References of the two images. If a tag has moved to another image, the bundle is built again.

    version
        The name of the target's content; the target's tag by default.

    compression
        ``zstd`` or ``gzip``.

    key
        Path of the private key that signs the bundle; see ``baseimg.sign``.

    delta
        ``only``, ``both`` or ``auto``; see ``baseimg.build``.

    fixes
        Package or path → advisories that the bundle fixes; see ``baseimg.build``.

    .. code-block:: yaml

        /srv/salt/baseimg/bundles/corp-base_12.0_12.1.tar:
          baseimg.built:
            - source: corp/base:12.0
            - target: corp/base:12.1
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    test = bool(__opts__["test"])  # None if the configuration says so
    try:
        images = [__salt__["baseimg.layer"](image)["chain_id"] for image in (source, target)]
        old = _present(name)
        if old and _matches(old, images, version, compression, delta, fixes):
            return _signed(ret, old, __salt__["baseimg.sign"](name, key, test) if key else None)
        new = __salt__["baseimg.build"](source, target, name, version, compression, test, key, delta, fixes)
    except CommandExecutionError as exc:
        return _failed(ret, exc)
    counts = new["changes"]
    ret["result"] = None if test else True
    ret["changes"] = {"bundle": {"old": old and old["hash"], "new": new.get("hash", f"{source} to {target}")}}
    ret["comment"] = (
        f"{'Would build' if test else 'Built'} {name} from {source} to {target} (paths: {_counted(counts)})"
    )
    if "key" in new:
        ret["comment"] += f", signed with {new['key']}"
    return ret


def prepared(name, version, bundles=None, chain_id=None, missing="ok", protect=None, accept=None, containers="keep"):
    """
    Make a version ready, so that ``converged`` is one swap: for runs before a maintenance window.

    The live content does not change; see ``baseimg.prepare``. With ``test=True`` the comment says what ``converged``
    would do.

    name, version, bundles, chain_id, missing, protect, accept, containers
        As for ``converged``. No container restarts.

    .. code-block:: yaml

        corp/base:12.0:
          baseimg.prepared:
            - version: '12.1'
            - bundles:
                '12.1':
                  source: salt://baseimg/bundles/corp-base_12.0_12.1.tar
                  hash: sha256:4f9…
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    if missing not in ("ok", "fail"):
        return _bad_missing(ret, missing)
    saltenv = globals().get("__env__")  # the environment of the SLS; Salt sets it for a run of states
    try:
        if __opts__["test"]:
            arguments = (name, version, bundles, chain_id, False, protect, accept, containers, saltenv)
            return _would_prepare(ret, __salt__["baseimg.plan"](*arguments, full=True))
        done = __salt__["baseimg.prepare"](
            name, version, bundles, chain_id, protect, accept, saltenv=saltenv, containers=containers
        )
    except CommandExecutionError as exc:
        if _code(exc) == "base-absent" and missing == "ok":
            return _absent(ret, exc)
        return _failed(ret, exc)
    if "held" in done:
        ret["comment"] = f"{done['base']}: {done['to']} is not prepared. Held."
        ret["warnings"] = [f"{done['base']}: {done['held']} (baseimg.unhold lifts it)"]
    elif not done["needed"]:
        ret["comment"] = f"{done['base']}: shows {done['to']}."
    elif done["changed"]:
        ret["changes"] = {"prepared": {"old": None, "new": done["to"]}}
        ret["comment"] = f"{done['base']}: {done['to']} is prepared; shows {done['from']}."
    else:
        ret["comment"] = f"{done['base']}: {done['to']} is on this node; shows {done['from']}."
    return ret


def _would_prepare(ret, planned):
    if "held" in planned:
        planned["restart"]["started"] = []  # a preparation starts no containers
        return _held(ret, planned)
    if planned["preparation"] == "live":
        ret["comment"] = f"{planned['base']}: shows {planned['to']}."
    elif planned["preparation"] == "ready":
        ret["comment"] = f"{planned['base']}: {planned['to']} is on this node; shows {planned['from']}."
    else:
        ret["result"] = None
        ret["changes"] = {"prepared": {"old": None, "new": planned["to"]}}
        lines = [f"{planned['base']}: {planned['to']} would be prepared; shows {planned['from']}."]
        ret["comment"] = _lines(lines + (_missed(planned["impact"]) if planned["impact"] else []))
    return ret


def pruned(name, keep=1):
    """
    Delete generations of a base that no container needs.

    name
        The base's reference or chain ID.

    keep
        How many older generations stay beside the live and the pristine one; see ``baseimg.prune``.

    .. code-block:: yaml

        corp/base:12.0:
          baseimg.pruned:
            - keep: 1
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    test = bool(__opts__["test"])  # None if the configuration says so
    try:
        results = __salt__["baseimg.prune"](name, keep, test)
    except CommandExecutionError as exc:
        if _code(exc) == "base-absent":
            return _absent(ret, exc)
        return _failed(ret, exc)
    base, removed = results[0]["base"], [version for result in results for version in result.get("removed", ())]
    if not removed:
        ret["comment"] = f"{base}: no generation to delete."
        return ret
    freed = sum(result["freed"] for result in results)
    if "warnings" in results[0]:
        ret["warnings"] = results[0]["warnings"]
    ret["changes"] = {"removed": removed, "freed": freed}
    ret["result"] = None if test else True
    verb = "would delete" if test else "deleted"
    ret["comment"] = f"{base}: {verb} {', '.join(removed)} (up to {freed / 1e6:.1f} MB)."
    return ret


def mod_watch(name, sfun, **kwargs):
    """
    Run a state again because a state that it watches, or listens to, has changed something.

    ``converged`` then repairs: it compares the live content with its index, as with ``repair: true``. The other states
    run as they do without a requisite.

    name, sfun
        The name and the function of the state, which Salt passes with its arguments.

    .. code-block:: yaml

        corp/base:12.0:
          baseimg.converged:
            - version: '12.1'
            - watch:
              - pkg: docker.io
    """
    arguments = salt.utils.args.clean_kwargs(**kwargs)
    if sfun == "converged":
        return converged(name, **{**arguments, "repair": True})
    return {"built": built, "prepared": prepared, "pruned": pruned}[sfun](name, **arguments)


def _converged(ret, result):
    if "held" in result:
        return _held(ret, result)
    ret["changes"] = _changes(result)
    ret["comment"] = _comment(result)
    _warn(ret, result)
    return ret


def _would_converge(ret, planned):
    if "held" in planned:
        return _held(ret, planned)
    planned["restart"]["restarted"] = [name for batch in planned["restart"]["batches"] for name in batch]
    ret["changes"] = _changes(planned)
    ret["result"] = None if ret["changes"] else True
    ret["comment"] = _comment(planned)
    _warn(ret, planned)
    return ret


def _comment(result):
    """The comment of a plan or of a converge: the same lines in the same order, the most severe first."""
    impact = result.get("impact") if result["changed"] else None
    lines = [*_transitions(result), *(_removed(impact) if impact else ())]  # removals are never cut off
    lines += [f"Warning: {warning}." for warning in result.get("warnings", ())]
    if impact:
        lines += _missed(impact)
    lines += [*_attention(result), *_restarted(result["restart"])]
    if impact:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in impact["verdicts"].items() if count)
        lines += [f"Images: {counts or 'none'}.", *(_packages(impact["packages"]) if impact["packages"] else ())]
    if result["changed"] and "bundles" in result:
        lines.append(_route(result))
    return _lines([*lines, *_pruned(result)])


def _warn(ret, result):
    """Add the warnings of a result. Salt shows them although the state is True."""
    hidden = [line.rstrip(".") for line in _masked(result)]
    warnings = [*result.get("warnings", ()), *hidden, *result.get("pruned", {}).get("warnings", ())]
    if warnings:
        ret["warnings"] = [f"{result['base']}: {warning}" for warning in warnings]


def _held(ret, result):
    """Return the state of a held base: True, always with a warning."""
    ret["comment"] = _lines(
        [
            f"{result['base']}: stays at {result['to']} ({_images(result)}). Held.",
            *(f"Warning: {warning}." for warning in result.get("warnings", ())),
            *_attention(result),
            *_restarted(result["restart"]),
        ]
    )
    ret["changes"] = _changes(result)
    if ret["changes"] and __opts__["test"]:
        ret["result"] = None
    ret["warnings"] = [f"{result['base']}: {result['held']} (baseimg.unhold lifts it)"]
    return ret


def _lines(lines):
    """A comment of at most ten lines; the last says how many are left out."""
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], f"({len(lines) - _LINES + 1} more lines: see baseimg.impact and baseimg.status)"]
    return "\n".join(lines)


def _bad_missing(ret, missing):
    return {**ret, "result": False, "comment": f"[argument-invalid] missing is {missing!r}, expected one of: ok, fail"}


def _absent(ret, exc):
    """Return the state of a node without the base; warn of stores not examined, and of a name that may be misspelt."""
    coverage = exc.info["coverage"]
    if coverage["elsewhere"]:
        ret["result"] = False
        ret["comment"] = (
            f"{ret['name']}: absent from the engine that baseimg uses ({', '.join(coverage['examined'])}), but on "
            f"{'; '.join(coverage['elsewhere'])}. Declare that engine as baseimg:engine."
        )
        return ret
    ret["comment"] = f"{ret['name']}: absent, no image on this node is built on it. Nothing to do."
    warnings = [f"{ret['name']} may be on this node, not examined: {place}" for place in coverage["unexamined"]]
    if exc.info["suggestion"]:
        warnings.append(f"{ret['name']} is not on this node: did you mean {exc.info['suggestion']}?")
    if warnings:
        ret["warnings"] = warnings
    return ret


def _transitions(result):
    """Return a line for each content of a base: the transition and the number of images."""
    would = "would go " if __opts__["test"] else ""
    if "contents" not in result:
        return [_transition(result, would)]
    lines = [_content(result["base"], content, would) for content in result["contents"]]
    more = len(lines) - _CONTENTS
    return [*lines[:_CONTENTS], f"({more} more contents of {result['base']})"] if more > 0 else lines


def _transition(result, would):
    if result["changed"]:
        if result["from"] == result["to"] and not result["repaired"]:
            return (
                f"{result['base']}: {'would keep' if would else 'kept'} {result['to']} exact again ({_images(result)})."
            )
        repaired = f"; {'would repair' if would else 'repaired'} out-of-band changes" if result["repaired"] else ""
        return f"{result['base']}: {would}{result['from']} -> {result['to']} ({_images(result)}){repaired}."
    repaired = f"; its record {'would be' if would else 'was'} damaged and written again" if result["repaired"] else ""
    return f"{result['base']}: at {result['to']} ({_images(result)}){repaired}."


def _content(base, content, would):
    """Return the line of one of several contents that bear the name of a base."""
    name = f"{base} ({content['chain_id'][:19]})"
    if content["changed"]:
        return f"{name}: {would}{content['from']} -> {content['to']} ({_images(content)})."
    return f"{name}: at {content['to']} ({_images(content)})."


def _attention(result):
    """Return lines about images and containers that do not get the change, one fact a line."""
    lines = []
    for effect in result.get("kept", ()):
        images = effect["images"]
        count = _count(len(images), "image")
        own = f"To change them, declare {effect['base']}."
        if effect["declared"] is not None:
            own = f"{effect['base']} has its own declaration: {effect['declared']}."
        names = _first(_named(images))
        lines.append(f"Not changed: {count} on {effect['base']}, kept at {effect['version']} ({names}). {own}")
    lines += _masked(result)
    if result["protected"]:
        lines.append(f"Protected, but created after the change: {_first(_named(result['protected']))}.")
    lines += _running(result)
    if "matched" in result:
        lines.append(f"Matched through a bundle: {result['matched']}.")
    return lines


def _masked(result):
    """Return a line for each fix of this base, or of a base below it, that a mask hides from images."""
    lines = []
    for effect in result.get("kept", ()):
        where = f"the images on {effect['base']}, kept at {effect['version']}"
        if effect["masked"] is None:
            lines.append(f"It is unknown how much of {result['to']} reaches {where}.")
        elif hidden := _hidden(effect["masked"]):
            lines.append(f"Does not reach {where}: {hidden}.")
    for effect in result.get("masked", ()):
        changes = result["changed"] and result["from"] != result["to"]
        verb = "Do not" if not changes else "Would no longer" if __opts__["test"] else "No longer"
        lines.append(
            f"{verb} reach the images: {_hidden(effect)} of {effect['base']} {effect['version']}; {result['to']} was "
            "not built on it."
        )
    return lines


def _hidden(masked):
    """The packages and the number of paths of a lower base's change that images do not get; empty for none."""
    packages = [f"{name} {fixed} ({installed})" for name, (installed, fixed) in masked["packages"].items()]
    paths = _count(masked["paths"], "path") if masked["paths"] else ""
    return ", ".join(filter(None, [_first(packages), paths]))


def _route(planned):
    """The bundles that lead to the version, and how many paths they change."""
    if not planned["bundles"]:
        return "Uses a generation that is already on the node."
    return f"Bundles: {', '.join(planned['bundles'])} (paths: {_counted(planned['changes'])})."


def _counted(counts):
    """The numbers of changed paths; changes of metadata alone are separate."""
    metadata, inside = counts.get("metadata", 0), counts.get("inside", 0)
    modified = f"{counts['modified'] - metadata} modified" + (f", {metadata} only in metadata" if metadata else "")
    removed = f"{counts['removed']} removed" + (f" with {_count(inside, 'path')} inside" if inside else "")
    return f"{counts['added']} added, {modified}, {removed}"


def _pruned(result):
    """Return lines about deleted generations, and about generations that stay only because something uses them."""
    pruned, lines = result["pruned"], []
    if pruned["removed"]:
        verb = "Would delete" if __opts__["test"] else "Deleted"
        lines.append(f"{verb} old generations: {_first(pruned['removed'])} (up to {pruned['freed'] / 1e6:.1f} MB).")
    for held in pruned["in_use"]:
        count = _count(held["generations"], "generation")
        lines.append(
            f"{held['base']}: {count} in use, oldest since {held['since'][:10]} ({held['bytes'] / 1e6:.1f} MB): "
            f"{_first(held['users'])}."
        )
    return lines


def _changes(result):
    """Return the changes of an operation: the version of the base, the record, containers, deleted generations."""
    changes = {"version": {"old": result["from"], "new": result["to"]}} if result["changed"] else {}
    if result.get("repaired") and not result["changed"]:
        changes = _RECORDED
    touched = {word: result["restart"][word] for word in ("restarted", "started") if result["restart"][word]}
    live = result["restart"].get("live", {}).items()
    touched |= {name: own for name, own in live if {*own} & {"attached", "detached"}}
    more = {"containers": touched, "removed": result.get("pruned", {}).get("removed")}
    return {**changes, **{key: value for key, value in more.items() if value}}


def _unfinished(exc):
    """Return the changes that a failed operation made before it failed."""
    return _changes(exc.info["result"]) if isinstance(exc.info, dict) and "result" in exc.info else {}


def _missed(impact):
    """The images and containers that do not get the whole change, the worst verdict first."""
    lines = []
    for verdict in impact["verdicts"]:
        images = _grouped(impact["images"], verdict) if verdict != "effective" else []
        containers = [_judged(judgement) for judgement in impact["containers"] if judgement["verdict"] == verdict]
        if images:
            lines.append(f"{verdict.capitalize()}: {_first(images)}{_unlisted(impact, verdict)}.")
        if containers:
            lines.append(f"{verdict.capitalize()}, containers: {_first(containers)}.")
    warned = [f"{image['image']}: {', '.join(image['warnings'])}" for image in impact["images"] if image["warnings"]]
    return [*lines, f"Warning: {'; '.join(warned[:_NAMED])}."] if warned else lines


def _grouped(images, verdict):
    """The images with a verdict and their first reasons; those without a name are one entry."""
    judged = [image for image in images if image["verdict"] == verdict]
    named = [_judged(image) for image in judged if not image["image"].startswith(_NAMELESS)]
    return [*named, f"{len(judged) - len(named)} without a name"] if len(named) < len(judged) else named


def _unlisted(impact, verdict):
    """Return the number of images of a verdict that the plan does not list: it lists the first twenty of all."""
    more = impact["verdicts"][verdict] - sum(image["verdict"] == verdict for image in impact["images"])
    return f" and {more} more" if more > 0 else ""


def _judged(image):
    """An image or a container with its first reason, or with how much of the change its own files override."""
    if image["reasons"]:
        reason = image["reasons"][0]
        return f"{image.get('container', image['image'])} ({reason['subject']} {reason['text']})"
    counts = ", ".join(f"{covered} of {changed} {word}" for word, (covered, changed) in image["covered"].items())
    paths = "".join(f"; {path['path']}: {path['reason']}" for path in image["shadowed"][:1])
    return f"{image['image']} ({counts}{paths})" if counts else image["image"]


def _removed(impact):
    """Return a sentence that names all packages that the new base lacks."""
    removed = impact["packages"]["removed"] if impact["packages"] else {}
    return [f"Packages removed: {', '.join(f'{name} {old}' for name, old in removed.items())}."] if removed else []


def _packages(packages):
    """The packages with security fixes, as far as known, then the others, those that images start first."""
    if packages["unknown"]:
        return [f"Packages: unknown, {packages['unknown']}."]
    texts = {name: f"{name} {old} -> {new}" for name, (old, new) in packages["changed"].items()}
    fixes = packages.get("fixes", {})
    fixed = [f"{texts.pop(name)} ({_first(fixes[name], _ADVISORIES)})" for name in list(texts) if name in fixes]
    changed = [*texts.values(), *(f"{name} {version} added" for name, version in packages["added"].items())]
    lines = [f"Security fixes: {_first(fixed)}."] if fixed else []
    if changed or not (lines or packages["removed"]):
        lines.append(f"Packages: {_first(changed) or 'the same'}.")
    return lines


def _named(images):
    """The names of images; those without a name are one entry."""
    named = [image for image in images if not image.startswith(_NAMELESS)]
    return [*named, f"{len(images) - len(named)} without a name"] if len(named) < len(images) else named


def _first(names, limit=_NAMED):
    """The first of many names, and how many more there are."""
    more = len(names) - len(names[:limit])
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def _restarted(restart):
    """Return lines about restarted containers; in a plan "and" joins those that restart at the same time."""
    would, lines = __opts__["test"], []
    if would and restart["batches"]:
        lines.append(f"Would restart: {', then '.join(' and '.join(batch) for batch in restart['batches'])}.")
    elif restart["restarted"]:
        lines.append(f"Restarted: {', '.join(restart['restarted'])}.")
    if restart["started"]:
        names = ", ".join(restart["started"])
        lines.append(f"{'Would start' if would else 'Started'} (an earlier run had stopped them): {names}.")
    for name, own in list(restart.get("live", {}).items())[:_NAMED]:
        left = [f"{path} ({reason})" for path, reason in own.get("left", {}).items()]
        texts = {"in effect": own.get("in_effect"), "detached": own.get("detached"), "left alone": left}.items()
        lines += [f"Live files {word} in {name}: {_first(paths)}." for word, paths in texts if paths]
    return lines


def _images(result):
    return _count(len(result["images"]), "image")


def _count(number, noun):
    """A number with its noun: ``1 image``, ``2 images``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _running(result):
    """Containers that stay on another content, and containers whose content is unknown."""
    lines = []
    containers, left = result["containers"], result["restart"]["left"]
    if outdated := [name for name in containers["outdated"] if name not in result["restart"]["restarted"]]:
        names = ", ".join(f"{name} ({left[name]})" if name in left else name for name in outdated)
        lines.append(f"Stop and start to pick it up (docker restart is not enough): {names}.")
    if containers["unknown"]:
        lines.append(f"Content unknown, stop and start to be sure: {', '.join(containers['unknown'])}.")
    return lines


def _present(bundle):
    """The manifest of the bundle if the file is sound; None means: build it again."""
    try:
        return __salt__["baseimg.inspect"](bundle, verify=True)
    except CommandExecutionError as exc:
        if _code(exc) in ("bundle-invalid", "digest-mismatch"):
            return None
        raise


def _signed(ret, bundle, signed):
    """The return for a bundle that is up to date, and for its signature if one is declared."""
    ret["comment"] = f"{bundle['bundle']}: up to date, {bundle['hash']}"
    if signed and signed["changed"]:
        ret["result"] = None if __opts__["test"] else True
        ret["changes"] = {"signature": {"old": None, "new": signed["key"]}}
        ret["comment"] += f"; {'would be ' if __opts__['test'] else ''}signed with {signed['key']}"
    return ret


def _matches(bundle, images, version, compression, delta, fixes):
    recorded = (bundle.get("packages") or {}).get("named", {})
    named = {
        name: sorted({listed} if isinstance(listed, str) else set(listed)) for name, listed in (fixes or {}).items()
    }
    allowed = {None: ({"full"},), "only": ({"delta"},), "both": ({"full", "delta"},), "auto": ({"full"}, {"delta"})}
    return (
        [bundle[side]["chain_id"] for side in ("source", "target")] == images
        and set(bundle["encodings"]) in allowed.get(delta, ())
        and ("full" not in bundle["encodings"] or bundle["compression"] == compression)
        and version in (None, bundle["target"]["version"])
        and named == recorded
    )


def _code(exc):
    return exc.info.get("code") if isinstance(exc.info, dict) else None


def _failed(ret, exc):
    ret.update(result=False, comment=str(exc))
    if _code(exc):
        hint = exc.info["hint"] and f" -- {exc.info['hint']}"
        ret["comment"] = f"[{exc.info['code']}] {exc.info['message']}{hint}"
    return ret
