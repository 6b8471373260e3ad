"""An environment of its own for each tool that we are compared with, under the user's cache folder."""

import os
import shutil
import subprocess
import sysconfig
import venv
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from merge_lib.errors import MergeError


@dataclass(frozen=True)
class Peer:
    """A tool, its version, and what to import for a merge by it.

    Attributes:
        borrows: it sees the packages of the present environment, torch among them, and installs only what lacks there.
    """

    name: str
    version: str
    module: str
    borrows: bool = False

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.name}=={self.version}"


MERGEKIT = Peer("mergekit", "0.1.5", "mergekit.scripts.run_yaml")
SD_MECHA = Peer("sd-mecha", "1.1.8", "sd_mecha")
FUSION_BENCH = Peer("fusion-bench", "0.2.33", "fusion_bench", borrows=True)
PEERS = {peer.name: peer for peer in (MERGEKIT, SD_MECHA)}


def make_interpreter(peer: Peer) -> Path:
    """The interpreter of the peer's environment, which is made at the first call: a minute or two.

    It holds the torch release of this project. The file `complete` is written last.

    Raises:
        MergeError: pip could not install it.
    """
    torch = f"torch=={version('torch').partition('+')[0]}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mergeline" / "peers"
    folder = cache / f"{peer.requirement}-{torch}"
    python, done = folder / "bin" / "python", folder / "complete"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        if peer.borrows:
            _borrow(folder)
        for wanted in (() if peer.borrows else (torch,)) + (peer.requirement,):
            _install(python, wanted)  # torch first, so that no other build of it is pulled
        done.touch()
    return python


def _borrow(folder: Path) -> None:
    """Let an environment see the packages of the present one, behind its own."""
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")


def _install(python: Path, wanted: str) -> None:
    command = [python, "-m", "pip", "install", "--quiet", wanted]
    result = subprocess.run(command, cwd=python.parent, capture_output=True, text=True, check=False)
    if result.returncode:
        raise MergeError(f"pip could not install {wanted} for {python}: {result.stderr.strip()[-600:]}")


def own_variables() -> dict[str, str]:
    """The variables for a peer's process: ours, without the paths at which Python looks for our modules."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
