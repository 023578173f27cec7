# An example that works as it is: declare your own bases in its place.
#
# baseimg:
#   bases:                       what every node converges to (salt/baseimg/init.sls)
#     corp/base:12.0:            the base, by the reference of its original image
#       version: '12.1'          the version to show; its own tag ('12.0') means the original content.
#                                Quote it: YAML reads 12.10 as the number 12.1.
#       bundles:                 version -> the bundle that leads to it
#         '12.1':
#           source: salt://baseimg/bundles/corp-base_12.0_12.1.tar   a path on the node, or any URL of cp.cache_file,
#                                or docker://HOST/NAME@sha256:… in a registry (docs/operating/registry.md)
#           hash: sha256:…       digest of that file ('sha256sum'); without it only the transport protects the file
#       chain_id: sha256:…       optional: finds the base on nodes without its name ('baseimg.layer' prints it)
#       repair: false            optional: repair out-of-band changes; walks the layer at each run
#       protect: ['corp/legacy:*']   optional: image patterns; if such an image is on the base, the base does not change
#       below: exact             optional: show this base's own image whatever a base below it shows, or 'follow' that base
#       accept: ['corp/old:*']   optional: image patterns, image IDs or container names that the new version may break
#       impaired: refuse         optional: 'accept' where images may lose what they do not start (docs/operating/impact.md)
#       breaks: refuse           optional: 'unused' where images without a container may break
#       ghosts: accept           optional: 'refuse' where no image may show ghost names, which 'ls' fails on
#       require: [libssl3]       optional: packages or paths that must reach every image, or nothing is changed
#       trial: auto              optional: commands that must succeed over the new content (docs/operating/impact.md)
#       containers:              optional: 'keep' (the default) touches no running container
#         mode: restart          stop and start those on another content; swap back if one fails its gate;
#         parallel: 1            all keys: docs/operating/containers.md
#         order: [label=tier=db]
#         except: [label=critical, 'batch-*']
#         timeout: 120
#         settle: 10
#         probe:
#           - {match: 'shop-*', url: 'http://127.0.0.1:8080/health'}
#         on_failure: rollback
#       live: [/etc/ssl/certs/ca-certificates.crt]   optional: data files that reach running containers without a restart
#       keep: 1                  optional: contents that stay beside the live and the pristine one (docs/operating/containers.md)
#       missing: ok              optional: 'fail' makes a node without this base an error
#   builds:                      the bundles of the build machine (salt/baseimg/build.sls)
#     /srv/salt/baseimg/bundles/corp-base_12.0_12.1.tar:
#       source: corp/base:12.0
#       target: corp/base:12.1
#       version: '12.1'          optional: the target's tag by default
#       compression: zstd        optional: 'gzip' for nodes without the Python package zstandard
#       delta: only              optional: several times smaller; see baseimg.build for 'both' and 'auto'
#       fixes:                   optional: advisories that no changelog names
#         openssl: [CVE-2024-5535]
#       key: /etc/salt/baseimg-signing-key   optional: signs the bundle with this private key (docs/operating/signatures.md)
#   rollout:                     policy of 'salt-run baseimg.rollout'; read in the master's own pillar (docs/operating/rollout.md)
#     target: '*'                minions: a glob, or tgt and tgt_type
#     exclude: 'db*'             minions that take no part: a target, or a list of targets
#     unreachable: wait          or skip: nodes that do not answer at the start are left out
#     refused: 0                 nodes that may refuse before anything changes: a number, or a percentage
#     canary: 1                  the first wave: a number, a percentage, or a target
#     waves: ['10%', '50%']      the next waves; all remaining nodes form the last one
#     success_threshold: 100     percent of a wave's nodes that must be updated
#     max_unavailable: 25%       of all nodes, and of each failure domain; or a number
#     min_available: 0           nodes of each failure domain that stay up
#     group_by: rack             the grain that names the failure domain
#     prepare: stage             before the first wave make the new generations; or fetch: only fetch the bundles
#     prepare_at_once: 50        nodes that prepare at the same time
#     saltenv: prod              environment of salt:// URLs; default: that of each minion's configuration
#     soak: 600                  seconds between two waves
#     gate: [{url: 'https://shop.corp/health', match: ok}]    must hold after each wave and during the soak
#     require: [CVE-2024-5535]   packages, paths and advisories that must reach every image of a node
#     gate_interval: 30          seconds between two checks of the gates
#     before_node: {function: lb.drain, tgt: 'lb*', arg: ['{node}']}       runs before a node changes
#     after_node: {function: lb.undrain, tgt: 'lb*', arg: ['{node}']}      … and after it changed well
#     on_failure: rollback       or halt
#     timeout: 900               seconds that one step may take on one node
#     window: {days: [mon, tue], from: '22:00', to: '04:00', timezone: UTC, cutoff: 900}
#     windows: {rack-b: {from: '01:00', to: '03:00'}}                      of single failure domains
#     keep_records: 50           records of ended rollouts
#   rollouts:                    rollouts that the engine 'baseimg' moves; read in the master's own pillar
#     corp/base:12.0: {version: '12.1', late: converge, canary: 1}         and any key of 'rollout'
#
# If no bundle leads to the version directly, bundles are chained: with 12.0 -> 12.1 under '12.1' and 12.1 -> 12.2 under
# '12.2', a base at 12.0 goes to 12.2 in one swap.
#
# The key registries below baseimg declares mirrors and registries without TLS: docs/operating/registry.md.
# With trusted_keys below baseimg, a node accepts only signed bundles: docs/operating/signatures.md.

baseimg:
  bases:
    corp/base:12.0:
      version: '12.0'
