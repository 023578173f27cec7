# Roll back to the version `from` on every node. Part of orch.rollout; can also run alone.
#
#   salt-run state.orchestrate orch.rollback pillar='{"rollout": {"base": "corp/base:12.0", "from": "12.0",
#     "nodes": ["node1", "node2", "node3"]}}'
#
# An unreachable node is a failure; the other nodes roll back. Declare the old version in pillar, too. Otherwise the
# next state.apply applies the new version again.
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
