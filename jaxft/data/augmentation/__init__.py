"""Random changes of images on the device."""
