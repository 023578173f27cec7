# Converge every base that pillar declares. A mistake in the installation or in pillar fails one state, and no other.
{%- set absent = 'baseimg is not installed on this minion: run saltutil.sync_all' %}
{%- set problem = salt['baseimg.problem']() if 'baseimg.problem' in salt else absent %}
{%- if problem %}

baseimg cannot run:
  test.fail_without_changes:
    - name: {{ problem | json }}  # in test mode Salt replaces the comment
    - comment: {{ problem | json }}
{%- else %}
{%- set bases = salt['baseimg.declared']() %}
{#- modules of an older release do not plan the order #}
{%- for name in (salt['baseimg.order']() if 'baseimg.order' in salt else bases) %}
{%- set base = bases[name] %}

{{ ('baseimg ' ~ name) | json }}:
  baseimg.converged:
    - name: {{ name | json }}
    - version: {{ base.version | json }}
    - bundles: {{ base.bundles | json }}
    - chain_id: {{ base.chain_id | json }}
    - missing: {{ base.missing | json }}
    - repair: {{ base.repair | json }}
    - protect: {{ base.protect | json }}
    - accept: {{ base.accept | json }}
    - containers: {{ base.containers | json }}
    - keep: {{ base.get('keep', 1) | json }}
{%- else %}
{}
{%- endfor %}
{%- endif %}
