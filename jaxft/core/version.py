"""The version of jaxft."""

VERSION = "0.1.0"
