# Converge a node that starts, or that reports an image with an outdated base, to what its pillar declares.
#
#   # /etc/salt/master.d/reactor.conf
#   reactor:
#     - 'salt/minion/*/start': [/opt/baseimg/reactor/baseimg.sls]
#     - 'salt/beacon/*/baseimg/arrived': [/opt/baseimg/reactor/baseimg.sls]
#
# The runner refuses an event whose tag names another minion than its data, and leaves the nodes of an open rollout
# alone. Raise the version in pillar only when the rollout is done (docs/operating/rollout.md).
{{ ('baseimg arrived ' ~ data['id']) | json }}:
  runner.baseimg.arrived:
    - args:
      - tag: {{ tag | json }}
      - id: {{ data['id'] | json }}
