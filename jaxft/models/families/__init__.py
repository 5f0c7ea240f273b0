"""Families of networks, a file each: the Flax module, and the facts of its published weights.

Imports `core`, `ops` and the rest of `models`. A new family is a file that calls `register_family`, and its name in
`BUILT_IN`; how its weight files call their tensors is a table in `weights/namings/`.
"""

BUILT_IN = ("cifar_resnet", "wide_resnet", "resnet", "squeezenet", "efficientnet")
