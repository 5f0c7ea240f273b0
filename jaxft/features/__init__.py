"""Activations of frozen layers, computed once and cached; classifiers of such features.

May import all rows up to `store`. `prefix` computes activations, `cache` and `packs` keep them in memory and on disk,
`feature_spec` says which features are meant, `class_means` and `feature_classifier` use them. Grows by a classifier: a
class in `classifiers`, or in a plug-in, and a line that registers it; another use of features is a file.
"""
