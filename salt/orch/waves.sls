# The waves of orch.rollout, one after the other. Do not run it alone: it does not roll back after a failure.
{%- set rollout = pillar.get('rollout', {}) %}
{%- set nodes = rollout.get('nodes', []) %}
{%- set canary = rollout.get('canary', 1) %}
{%- set waves = [nodes[:canary]] + (nodes[canary:] | batch(rollout.get('batch', 10)) | list) %}
{%- if not nodes %}

baseimg nobody to update:
  test.fail_without_changes:
    - name: 'orch.rollout needs pillar with rollout: base, from, and nodes'
{%- endif %}
{%- for wave in waves if wave %}

{{ ('baseimg wave ' ~ loop.index) | json }}:
  salt.state:
    - sls: baseimg
    - tgt: {{ wave | list | json }}
    - tgt_type: list
    - expect_minions: True
    - timeout: {{ rollout.get('timeout', 300) | json }}
  {%- if loop.index > 1 %}
    - require:
      - salt: {{ ('baseimg wave ' ~ (loop.index - 1)) | json }}
    {%- if loop.index == 2 and rollout.get('check') %}
      - salt: baseimg canary is well
    {%- endif %}
  {%- elif rollout.get('check') %}

baseimg canary is well:
  salt.function:
    - name: cmd.run
    - tgt: {{ wave | list | json }}
    - tgt_type: list
    - arg: {{ [rollout.check] | json }}
    - expect_minions: True
    - require:
      - salt: baseimg wave 1
  {%- endif %}
{%- endfor %}
