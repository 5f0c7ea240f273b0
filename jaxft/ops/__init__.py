"""Operations of networks: convolution, pooling and precision.

Imports `core`. Add a file for each new operation.
"""
