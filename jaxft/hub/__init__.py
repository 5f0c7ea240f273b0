"""Published files by name: the table of their addresses, the download, and the folders where files are kept.

Imports only `core`.
"""
