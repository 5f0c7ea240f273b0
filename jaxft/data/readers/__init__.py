"""Readers of images, whatever they lie in, and the image sets that are made of what they read.

`image_sets.load_images` is the door. Imports `core` and `config`. Grows by a reader: a function in a file, and a line
in `registry`.
"""
