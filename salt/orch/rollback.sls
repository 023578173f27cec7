# The way back of orch.rollout, which can be run alone as well: every node shows the version `from` again.
#
#   salt-run state.orchestrate orch.rollback pillar='{"rollout": {"base": "corp/base:12.0", "from": "12.0",
#     "nodes": ["node1", "node2", "node3"]}}'
#
# A node that does not answer is a failure, and the others go back all the same. Declare the old version in pillar, too,
# or the next state.apply brings the new one again.
{%- set rollout = pillar.get('rollout', {}) %}
{%- if rollout.get('nodes') %}

baseimg back:
  salt.function:
    - name: baseimg.rollback
    - tgt: {{ rollout.nodes | json }}
    - tgt_type: list
    - arg: {{ [rollout.base] | json }}
    - kwarg: {{ {'to': rollout.from} | json }}
    - expect_minions: True
    - timeout: {{ rollout.get('timeout', 300) | json }}
{%- else %}

baseimg nobody to roll back:
  test.fail_without_changes:
    - name: 'orch.rollback needs pillar with rollout: base, from, and nodes'
{%- endif %}
