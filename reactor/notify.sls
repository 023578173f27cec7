# Example: post the halt and the end of each rollout to a webhook. Adapt it to your service.
#
#   # /etc/salt/master.d/reactor.conf
#   reactor:
#     - 'salt/baseimg/rollout/*/halted': [/opt/baseimg/reactor/notify.sls]
#     - 'salt/baseimg/rollout/*/rolled-back': [/opt/baseimg/reactor/notify.sls]
#     - 'salt/baseimg/rollout/*/failed': [/opt/baseimg/reactor/notify.sls]
#     - 'salt/baseimg/rollout/*/done*': [/opt/baseimg/reactor/notify.sls]
#
# Chat services expect other fields. Salt's returners (slack_webhook, mattermost) can be used the same way.
{%- set url = opts.get('baseimg', {}).get('notify_url', 'http://localhost:9095/rollouts') %}
{%- set message = {'rollout': data['id'], 'base': data['base'], 'version': data['version'], 'text': data['text']} %}
{{ ('baseimg notify ' ~ data['id']) | json }}:
  runner.http.query:
    - args:
      - url: {{ url | json }}
      - method: POST
      - header_dict: {Content-Type: application/json}
      - data: {{ message | json | json }}
