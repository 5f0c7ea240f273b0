"""Fine-tunes a pretrained network on labeled images in one call, as two small studies.

The first study trains a few candidates on some of the training images and validates them on the others, with
cross-validation if there are few images. The second study trains the best candidate on all training images, with
several seeds. `run.py` contains the call, and each other file contains one step. The rules for imports are those of
`recipes/`.
"""
