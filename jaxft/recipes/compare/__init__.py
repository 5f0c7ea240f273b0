"""Comparison of weight files."""
