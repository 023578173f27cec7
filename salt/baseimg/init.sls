# Converge every base that pillar declares. The pillar is checked first: a mistake fails here, before anything happens.
{%- set bases = salt['baseimg.declared']() %}
{%- for name, base in bases.items() %}

{{ ('baseimg ' ~ name) | json }}:
  baseimg.converged:
    - name: {{ name | json }}
    - version: {{ base.version | json }}
    - bundles: {{ base.bundles | json }}
    - chain_id: {{ base.chain_id | json }}
    - missing: {{ base.missing | json }}
    - repair: {{ base.repair | json }}
    - protect: {{ base.protect | json }}
    - containers: {{ base.containers | json }}
{%- else %}
{}
{%- endfor %}
