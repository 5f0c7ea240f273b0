"""Operations of networks: convolution, pooling, and the precision they compute in.

Imports `core`. An op is a file.
"""
