"""This package says who may write a folder, one program at a time, and how runs and actors may be called.

owned, Ownership    take a folder for this program until a block ends, or refuse in a line that names its owner
owner_of, Owner     the program that writes there now
boot_id             which kernel runs here
contents, FILE      what lies in a folder beside its owner's file
check_name          a name of a run, which names a folder and keys in the replay
check_key, is_key   a name that becomes part of a key alone, as an actor's
"""

from protos.folders.names import MOST_BYTES, check_key, check_name, is_key
from protos.folders.ownership import FILE, Owner, Ownership, boot_id, contents, owned, owner_of

__all__ = [
    "FILE",
    "MOST_BYTES",
    "Owner",
    "Ownership",
    "boot_id",
    "check_key",
    "check_name",
    "contents",
    "is_key",
    "owned",
    "owner_of",
]
