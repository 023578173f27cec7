# On the build machine, which has the images: build every bundle that pillar declares.
{%- set absent = 'baseimg is not installed on this minion: run saltutil.sync_all' %}
{%- set problem = salt['baseimg.problem']() if 'baseimg.problem' in salt else absent %}
{%- if problem %}

baseimg cannot build:
  test.fail_without_changes:
    - name: {{ problem | json }}  # in test mode Salt replaces the comment
    - comment: {{ problem | json }}
{%- else %}
{%- for path, build in salt['baseimg.declared']('builds').items() %}

{{ ('baseimg bundle ' ~ path) | json }}:
  baseimg.built:
    - name: {{ path | json }}
    - source: {{ build.source | json }}
    - target: {{ build.target | json }}
    - version: {{ build.version | json }}
    - compression: {{ build.compression | json }}
    - key: {{ build.key | json }}
    - delta: {{ build.delta | json }}
    - fixes: {{ build.fixes | json }}
{%- else %}
{}
{%- endfor %}
{%- endif %}
