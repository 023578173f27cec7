"""
The report's HTML, as Jinja templates.

Jinja2 and MarkupSafe come with Salt. Jinja escapes every value, so the names of nodes and images and the lines of logs
never become markup. A template is a text in a module because Salt's sync copies only modules.
"""

from __future__ import annotations

import jinja2
from markupsafe import Markup

from ..display import counted

_KEPT = "\n\t"

_MACROS = """
{% macro table(caption, headings, numbers=()) %}
<div class="wide" role="region" aria-label="{{ caption }}" tabindex="0">
<table style="
{%- for heading in headings %}--h{{ loop.index }}:'{{ heading }}'{{ "" if loop.last else ";" }}{% endfor %}">
<caption>{{ caption }}</caption>
<thead><tr>
{% for heading in headings %}
<th scope="col"{% if loop.index0 in numbers %} class="n"{% endif %}>{{ heading }}</th>
{% endfor %}
</tr></thead>
<tbody>{{ caller() }}</tbody></table></div>
{% endmacro %}

{% macro find_box(id, label, css="find") %}
<div class="{{ css }}" hidden><label for="{{ id }}">{{ label }}</label>
<input id="{{ id }}" type="search" autocomplete="off" spellcheck="false">
<output for="{{ id }}" class="soft"></output></div>
{% endmacro %}

{% macro mark(kind) %}<i class="mark {{ kind }}" aria-hidden="true"></i>{% endmacro %}
"""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">
<title>baseimg: the fleet at {{ made }}</title><style>{{ css }}</style></head>
<body><a href="#main" class="skip">Skip to the content</a>
<header><h1>Base images on the fleet</h1>
<p class="soft">{{ bases | join(", ") or "No bases" }} · {{ made }}</p>
<nav aria-label="Sections"><ul>
{% for anchor, title in anchors %}<li><a href="#{{ anchor }}">{{ title }}</a></li>{% endfor %}
</ul></nav></header>
<main id="main"><dl class="tiles">
{% for word, count in tiles %}
<div{% if not count %} class="zero"{% endif %}><dt>{{ word }}</dt><dd>{{ "{:,}".format(count) }}</dd></div>
{% endfor %}
</dl>
{% for anchor, title, content in sections %}
<section id="{{ anchor }}" aria-labelledby="{{ anchor }}-title"><h2 id="{{ anchor }}-title">{{ title }}</h2>
{{ content }}</section>
{% endfor %}
</main>
<footer>Made by salt-run baseimg.report at {{ made }}. This file is complete and contacts no server.</footer>
<script>{{ script }}</script></body></html>
"""

_ROLLOUT = """{% from "macros" import table %}
<p>{{ record.base }} to <strong>{{ record.version }}</strong>, {{ record.state }}
{%- if record.reason %}: {{ record.reason }}{% endif %}</p>
<p class="soft">Rollout {{ record.id }}, started by {{ record.by }} at {{ created }}
{%- if ended %}, ended at {{ ended }}{% endif %}{% if skipped %}. Nodes that were skipped: {{ skipped }}{% endif %}.</p>
{% call table("Waves", headings, numbers) %}
{% for wave in waves %}
<tr><th scope="row">{{ wave.name }}</th><td>{{ wave.state }}</td>
{% for figure in wave.figures %}<td class="n">{{ figure }}</td>{% endfor %}
<td><div class="share" role="img" aria-label="{{ wave.words }}">
{%- for state, count, width in wave.shares -%}
<b class="{{ state }}" style="width:{{ width }}%" title="{{ state }}: {{ count }}"></b>
{%- endfor %}</div></td>
{% for time in wave.times %}<td>{% if time %}<span class="word">{{ time }}</span>{% endif %}</td>{% endfor %}
</tr>
{% endfor %}
{% endcall %}
{{ timeline }}
"""

_NODES = """{% from "macros" import find_box, mark, table %}
{{ find_box("find", "Find nodes by name") }}
<p class="legend">
{%- for kind, word in words.items() %}<span class="word">{{ mark(kind) }}{{ word }}</span>{% endfor %}</p>
{% for name, groups in bases %}
<h3>{{ name }}</h3>
{% for group in groups %}
{% set count = group.nodes | length | counted("node") %}
<div class="group"><h4>{{ mark(group.kind) }}{% if group.version %}<strong>{{ group.version }}</strong> · {% endif %}
{{- count }}<span class="soft">, {{ words[group.kind] }}</span></h4>
<div class="map" aria-hidden="true">
{%- for node in group.nodes %}<i class="{{ group.kind }}" title="{{ node }}"></i>{% endfor %}</div>
{% if group.nodes | length <= few %}<p class="names">{{ group.nodes | join(", ") }}</p>
{% else %}<details><summary>Names of the {{ count }}</summary>
<p class="names">{{ group.nodes | join(", ") }}</p></details>
{% endif %}</div>
{% endfor %}
{% endfor %}
{% if no_base %}<p class="soft">No node has a recorded base.</p>{% endif %}
<section id="all" aria-label="All nodes"><details class="all">
<summary>All {{ "{:,}".format(rows | length) }} nodes</summary>
{% call table("All nodes", headings) %}
{% for row in rows %}
<tr><th scope="row">{{ row.node }}</th><td>{{ mark(row.kind) }}{{ words[row.kind] }}</td>
<td>{{ row.versions | join("; ") }}</td>
{%- if with_rollout %}<td>{{ row.wave }}</td><td>{{ row.state }}</td>{% endif -%}
<td>{{ row.outdated | join(", ") }}</td><td>{{ row.notes | join("; ") }}</td></tr>
{% endfor %}
{% endcall %}</details></section>
"""

_FAILURES = """{% from "macros" import table %}
{% if failures %}
{% call table("Failures and their reasons", ["What", "Reason", "Nodes", "Which"], [2]) %}
{% for kind, reason, members in failures %}
<tr><th scope="row">{{ kind }}</th><td><span class="mono">{{ reason or "no reason was given" }}</span></td>
<td class="n">{{ "{:,}".format(members | length) }}</td>
<td>{% if members | length > few %}<details>
<summary>{{ members[:3] | join(", ") }} and {{ members | length - 3 }} more</summary>
<p class="names"><span class="which">{{ members | join(", ") }}</span></p></details>
{%- else %}<span class="which">{{ members | join(", ") }}</span>{% endif %}</td></tr>
{% endfor %}
{% endcall %}
{% else %}<p>Nothing failed, drifted, refused a version, is held or was unreachable.</p>{% endif %}
"""

_IMPACT = """{% from "macros" import table %}
{% if versions %}
<p>A path that an image's own layers cover stays as the image has it: rebuild the image to change it.</p>
<p class="soft">Target: {{ versions | join(", ") }}. Reported by {{ queried[:8] | join(", ") }}
{%- if queried | length > 8 %} and {{ queried | length - 8 }} more{% endif %}.</p>
{% endif %}
{% for answer in silent %}<p>{{ answer.node }} gave no answer: {{ answer.impact }}</p>{% endfor %}
{% if versions %}
{% call table("Impact by image", ["Image", "Verdict", "Containers", "Reasons"], [2]) %}
{% for image in images %}
<tr><th scope="row"><code>{{ image.name }}</code></th>
<td><span class="word {{ image.style }}"><span aria-hidden="true">{{ image.sign }} </span>
{{- image.verdict }}</span></td>
<td class="n">{{ image.containers }}</td>
<td>{% if image.reasons %}<ul class="paths">
{%- for reason in image.reasons %}
<li><code>{{ reason.subject }}</code><span class="soft"> {{ reason.text }}; {{ reason.remedy }}</span></li>
{%- endfor %}</ul>{% endif %}{{ image.counts }}
{%- if image.shadowed %}<details>
<summary>{{ image.shadowed | length | counted("path") }}</summary>
<ul class="paths">{% for path in image.shadowed[:listed] %}
<li><code>{{ path.path }}</code><span class="soft"> {{ path.what }}: {{ path.reason }}</span></li>
{%- endfor %}</ul>
{%- if image.shadowed | length > listed %}<p class="soft">and {{ image.shadowed | length - listed }} more</p>
{%- endif %}</details>
{%- endif %}
{%- for warning in image.warnings %}<p>{{ warning }}</p>{% endfor %}</td></tr>
{% endfor %}
{% endcall %}
{% else %}<p class="soft">No bundle is declared, so there is nothing to judge.</p>{% endif %}
"""

_PACKAGES = """{% from "macros" import table %}
{% if note %}<p class="soft">{{ note }}</p>
{% elif packages %}
{% call table("Packages", ["Package", "From", "To"]) %}
{% for name, old, new in packages %}
<tr><th scope="row"><code>{{ name }}</code></th><td><code>{{ old }}</code></td><td><code>{{ new }}</code></td></tr>
{% endfor %}
{% endcall %}
{% else %}<p>No package changes.</p>{% endif %}
"""

_FIXES = """{% from "macros" import find_box, table %}
{% macro names(repositories) %}
{% set listed = repositories | unique(true) | sort(case_sensitive=true) | join(", ") %}
{% if repositories | length <= few %}{{ listed }}
{%- else %}<details><summary>{{ repositories | length | counted("image") }}</summary>{{ listed }}</details>
{%- endif %}
{% endmacro %}
{% if not rows %}<p class="soft">No bundle on these nodes names an advisory.</p>{% else %}
{% if silent %}<p class="soft">
{{- "Not everything is known of " }}{{ silent | length | counted("node") }}: {{ silent[:named] | join(", ") }}
{%- if silent | length > named %} and {{ silent | length - named }} more{% endif %}.</p>{% endif %}
{{ find_box("advisory", "Find an advisory", "find advisory") }}
<div class="advisories">
{% call table("Fixes", ["Advisory", "Packages", "In effect", "Not in effect", "Not known", "To do"]) %}
{% for row in rows %}
<tr><th scope="row"><code class="word">{{ row.advisory }}</code></th>
<td>{{ row.packages }}</td><td>{{ row.covered }}</td>
<td>{{ names(row.exposed) }}</td><td>{{ names(row.doubtful) }}</td><td>{{ row.remedies }}</td></tr>
{% endfor %}
{% endcall %}</div>
{% endif %}
"""

_TIMELINE = """<div class="wide" tabindex="0" role="region" aria-label="Timeline">
{%- for picture in pictures %}
<svg viewBox="0 0 {{ picture.width }} {{ picture.height }}" class="{{ picture.style }}"
role="img" aria-label="Waves over time">
<title>Waves over time</title><desc>{{ description }}</desc>
{% for shape in picture.shapes %}
{% if shape.text is defined %}<text {{ shape.attributes | xmlattr(false) }}>{{ shape.text }}</text>
{% else %}<{{ shape.element }} {{ shape.attributes | xmlattr(false) }}></{{ shape.element }}>
{% endif %}
{% endfor %}
</svg>
{%- endfor %}</div>
"""

_TEMPLATES = {
    "macros": _MACROS,
    "page": _PAGE,
    "rollout": _ROLLOUT,
    "nodes": _NODES,
    "failures": _FAILURES,
    "impact": _IMPACT,
    "packages": _PACKAGES,
    "fixes": _FIXES,
    "timeline": _TIMELINE,
}


def _printable(value: object) -> object:
    """Return a value whose unprintable characters (controls, marks that turn the text's direction) are U+FFFD."""
    if isinstance(value, Markup) or (plain := str(value)).isprintable():
        return value
    return "".join(character if character.isprintable() or character in _KEPT else "\ufffd" for character in plain)


_ENVIRONMENT = jinja2.Environment(
    autoescape=True,
    finalize=_printable,
    loader=jinja2.DictLoader(_TEMPLATES),
    lstrip_blocks=True,
    trim_blocks=True,
    undefined=jinja2.StrictUndefined,
)


_ENVIRONMENT.filters["counted"] = counted


def render(template: str, /, **values: object) -> Markup:
    """
    Render a template.

    Args:
        template: its name.
        values: what it shows; texts are escaped, :class:`Markup` is not.

    Returns:
        The HTML.
    """
    return Markup(_ENVIRONMENT.get_template(template).render(values))
