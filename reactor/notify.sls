# Post halts and ends of rollouts to a web hook: an example to change.
#
#   # /etc/salt/master.d/reactor.conf
#   reactor:
#     - 'salt/baseimg/rollout/*/halted': [/opt/baseimg/reactor/notify.sls]
#     - 'salt/baseimg/rollout/*/rolled-back': [/opt/baseimg/reactor/notify.sls]
#     - 'salt/baseimg/rollout/*/failed': [/opt/baseimg/reactor/notify.sls]
#     - 'salt/baseimg/rollout/*/done*': [/opt/baseimg/reactor/notify.sls]
#
# Chat services take other fields. A returner of Salt's (slack_webhook, mattermost) works the same way.
{%- set url = opts.get('baseimg', {}).get('notify_url', 'http://localhost:9095/rollouts') %}
{%- set message = {'rollout': data['id'], 'base': data['base'], 'version': data['version'], 'text': data['text']} %}
{{ ('baseimg notify ' ~ data['id']) | json }}:
  runner.http.query:
    - args:
      - url: {{ url | json }}
      - method: POST
      - header_dict: {Content-Type: application/json}
      - data: {{ message | json | json }}
