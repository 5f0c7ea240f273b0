"""What people do in one call, a file each; a call that has several steps is a folder.

Recipes may import all rows up to `report` and `tracking`, and no command. They parse nothing and print no result:
`commands/` does both. A new recipe is a new file; `jaxft/__init__.py` re-exports what users call from Python.
"""
