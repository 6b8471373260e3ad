"""Writing that lasts: what to do where the system refuses, and renames that survive a power cut."""

import errno
import os
from pathlib import Path

_REMEDIES = {
    errno.ENOSPC: "Free some space or write elsewhere.",
    errno.EDQUOT: "Free some of the quota or write elsewhere.",
    errno.EFBIG: "Raise the file size limit or write elsewhere.",
    errno.EROFS: "Write to a folder that is not read-only.",
    errno.EACCES: "Give write permission on the folder or write elsewhere.",
    errno.EPERM: "Give write permission on the folder or write elsewhere.",
    errno.ENOTDIR: "Choose a path whose parent is a folder.",
}


def remedy_for(refused: OSError) -> str:
    """What the user can do about a write that the system refused, in a sentence."""
    return _REMEDIES.get(refused.errno or 0, "Check the disk and the path.")


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system allows it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(handle)
