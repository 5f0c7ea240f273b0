"""Downloads published weights and images, and converts them to the files that the configs name.

Reads the table in `jaxft.hub.addresses`. Every conversion is deterministic, so the converted file has a known sha256.
"""
