"""Families of networks, one file each: the Flax module, and the facts about its published weights.

Imports `core`, `ops` and `models`. A new family is a file that calls `register_family`, and an entry in `BUILT_IN`. The
names of tensors in its weight files are a table in `weights/namings/`.
"""

BUILT_IN = ("cifar_resnet", "wide_resnet", "resnet", "squeezenet", "efficientnet")
