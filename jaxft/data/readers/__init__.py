"""Readers of images, whatever they lie in; `image_sets` is the door."""
