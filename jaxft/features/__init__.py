"""Activations of frozen layers, computed once and cached; classifiers of such features.

May import all rows up to `store`. `prefix` computes activations, `cache` and `packs` keep them in memory and on disk,
`class_means` and `classifiers` use them; another use of features is a file.
"""
