"""What lies on a disk: written whole or not at all, read without trust.

tensors     tensors and nested states to bytes and back (safetensors and JSON; nothing is ever unpickled)
files       a file or a folder that appears in one step; room for it
locks       who holds a path, and what killed writers left
folder      reading a folder or a zip of it that somebody else made
workspace   the snapshots of a run beside its output, and the cache
"""

from .files import check_room, check_target, replace_folder, write_file
from .folder import read_folder
from .locks import lock, reap, recover
from .tensors import flatten, from_bytes, metadata_of, to_bytes, unflatten
from .workspace import Cache, Workspace, cache_folder

__all__ = [
    "Cache", "Workspace", "cache_folder", "check_room", "check_target", "flatten", "from_bytes", "lock", "metadata_of",
    "read_folder", "reap", "recover", "replace_folder", "to_bytes", "unflatten", "write_file",
]  # fmt: skip
