"""Activations of frozen layers, computed once and cached; classifiers of such features.

Imports the rows up to `store`. `prefix` computes activations, and `cache` and `packs` store them in memory and on disk.
`feature_spec` describes features, and `class_means` and `feature_classifier` use them. A classifier is a class in
`classifiers` or in a plug-in, and a line that registers it; another use of features is a file.
"""
