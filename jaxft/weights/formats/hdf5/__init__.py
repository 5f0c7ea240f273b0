"""A reader of the HDF5 files that Keras writes (through h5py), without h5py.

The HDF5 library is not made for damaged files: a changed byte can keep it busy forever. This reader checks every offset
and every count against the size of the file, and its arrays are views of the bytes of the file. It reads groups with a
symbol table, and contiguous data: the default layout of h5py.

Reference: The HDF Group, "HDF5 File Format Specification Version 3.0", sections II to IV.
"""

from jaxft.weights.formats.hdf5.objects import Hdf5Object, open_hdf5

MAGIC = b"\x89HDF\r\n\x1a\n"

__all__ = ["MAGIC", "Hdf5Object", "open_hdf5"]
