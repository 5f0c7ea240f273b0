"""Formats of weight files, a file each."""
