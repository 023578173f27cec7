base:
  '*':
    - baseimg
