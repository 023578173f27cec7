# A node that starts, or on which an image arrives whose base is outdated, converges to what its pillar declares.
#
#   # /etc/salt/master.d/reactor.conf
#   reactor:
#     - 'salt/minion/*/start': [/opt/baseimg/reactor/baseimg.sls]
#     - 'salt/beacon/*/baseimg/arrived': [/opt/baseimg/reactor/baseimg.sls]
#
# Not while a rollout goes on that is meant to reach nodes wave by wave: raise the version in pillar when it is done
# (docs/operating/rollout.md).
{{ ('baseimg converge ' ~ data['id']) | json }}:
  local.state.apply:
    - tgt: {{ [data['id']] | json }}
    - tgt_type: list
    - args:
      - mods: baseimg
      - queue: True
