"""What people do in one call, a file each.

Imports all rows up to `report`.
"""
