"""Activations of frozen layers, computed once and cached; classifiers of such features.

Imports all rows up to `store`.
"""
