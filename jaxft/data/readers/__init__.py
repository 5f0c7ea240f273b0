"""Readers of image formats, and the image sets made from them.

`image_sets.load_images` is the entry point. Imports `core` and `config`. To add a format, write a function in a file of
its own and register it in `registry`.
"""
