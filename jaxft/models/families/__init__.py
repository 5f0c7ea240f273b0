"""Families of networks, a file each: the Flax module, its port table, the facts of its published weights."""
