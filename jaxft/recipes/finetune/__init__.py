"""Fine-tunes a pretrained network on labeled images in one call, as two small studies.

The first study tries a few candidates on a part of the training images and validates them on the rest, by
cross-validation if there are few images. The second study trains the best candidate on all training images, with
several seeds. `run.py` has the call, and the other files have a step each. May import what `recipes/` may import.
"""
