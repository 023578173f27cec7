# What every node gets. The build machine also gets baseimg.build: match it by your own means.
base:
  '*':
    - baseimg
