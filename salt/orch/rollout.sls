# A rollout with plain SLS: the canary, then the rest in batches, and the way back where anything fails.
#
#   salt-run state.orchestrate orch.rollout pillar='{"rollout": {"base": "corp/base:12.0", "from": "12.0",
#     "nodes": ["node1", "node2", "node3"], "canary": 1, "batch": 10, "check": "curl -fsS localhost/health"}}'
#
# Nodes are named, so one that does not answer is a failure. Every node converges to what its pillar declares. The waves
# run in an orchestration of their own: what fails there ends them, and not this one. Exits non-zero if anything failed,
# also where the way back went well.
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
