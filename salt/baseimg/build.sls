# On the build machine, which has the images: build every bundle that pillar asks for.
{%- set bundles = salt['baseimg.declared']('builds') %}
{%- for path, build in bundles.items() %}

{{ ('baseimg bundle ' ~ path) | json }}:
  baseimg.built:
    - name: {{ path | json }}
    - source: {{ build.source | json }}
    - target: {{ build.target | json }}
    - version: {{ build.version | json }}
    - compression: {{ build.compression | json }}
    - key: {{ build.key | json }}
    - delta: {{ build.delta | json }}
{%- else %}
{}
{%- endfor %}
