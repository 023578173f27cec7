# A rollout in plain SLS: the canary, then the other nodes in batches. Rolls back if anything fails.
#
#   salt-run state.orchestrate orch.rollout pillar='{"rollout": {"base": "corp/base:12.0", "from": "12.0",
#     "nodes": ["node1", "node2", "node3"], "canary": 1, "batch": 10, "check": "curl -fsS localhost/health"}}'
#
# Nodes are listed by name, so an unreachable node is a failure. Every node converges to the version in its pillar. The
# waves run in a separate orchestration, so a failure ends the waves but not this file. The exit code is non-zero if
# anything failed, even if the rollback succeeded.
{%- set rollout = pillar.get('rollout', {}) %}

baseimg waves:
  salt.runner:
    - name: state.orchestrate
    - mods: orch.waves
    - pillar: {{ {'rollout': rollout} | json }}

baseimg way back:
  salt.runner:
    - name: state.orchestrate
    - mods: orch.rollback
    - pillar: {{ {'rollout': rollout} | json }}
    - onfail:
      - salt: baseimg waves
