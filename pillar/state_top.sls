# An example for the top.sls of your own state tree: what every node gets. baseimg publishes no top.sls, since Salt
# would merge it with yours or use it in place of yours. The build machine also gets baseimg.build.
base:
  '*':
    - baseimg
