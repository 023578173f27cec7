# Converge a node to its pillar when it starts, or when it reports an image on an outdated base.
#
#   # /etc/salt/master.d/reactor.conf
#   reactor:
#     - 'salt/minion/*/start': [/opt/baseimg/reactor/baseimg.sls]
#     - 'salt/beacon/*/baseimg/arrived': [/opt/baseimg/reactor/baseimg.sls]
#
# The runner refuses an event whose tag and data name different minions. It does not change nodes in an unfinished
# rollout. Raise the version in pillar only after the rollout is done (docs/operating/rollout.md).
{{ ('baseimg arrived ' ~ data['id']) | json }}:
  runner.baseimg.arrived:
    - args:
      - tag: {{ tag | json }}
      - id: {{ data['id'] | json }}
