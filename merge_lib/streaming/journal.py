"""What is finished of a merge, one line a tensor, so that an interrupted one continues."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Notes:
    """What is finished of a merge.

    Attributes:
        finished: for each finished tensor the digests of its result and of every input.
        statistics: what passes over the whole model have found; None before that.
    """

    def __init__(self) -> None:
        self.finished: dict[str, dict[str, Any]] = {}
        self.statistics: list[int] | None = None

    def finish(self, tensor: str, output: str, inputs: list[str | None]) -> None:
        """Record a tensor whose bytes are in their place."""
        self.finished[tensor] = {"tensor": tensor, "output": output, "inputs": inputs}

    def note_statistics(self, values: list[int]) -> None:
        """Record what the passes over the whole model found."""
        self.statistics = values


class Journal(Notes):
    """The same in a file of JSON lines beside the unfinished shards; the first names the merge that they belong to."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        super().__init__()
        self.path = path
        lines = _read_lines(path)
        self.continues = bool(lines) and lines[0] == {"merge": fingerprint}
        for line in lines[1:] if self.continues else ():
            if "tensor" in line:
                self.finished[line["tensor"]] = line
            else:
                self.statistics = line["statistics"]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.open(path, flags if self.continues else flags | os.O_TRUNC, 0o666)
        if self.continues:
            self._write_raw(b"\n")  # ends a line that was cut off
        else:
            self._write({"merge": fingerprint})

    def finish(self, tensor: str, output: str, inputs: list[str | None]) -> None:
        """Record a tensor whose bytes are in their place."""
        super().finish(tensor, output, inputs)
        self._write(self.finished[tensor])

    def note_statistics(self, values: list[int]) -> None:
        """Record what the passes over the whole model found."""
        super().note_statistics(values)
        self._write({"statistics": values})

    def close(self) -> None:
        """Keep the file for a later run."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._write_raw((json.dumps(line, separators=(",", ":")) + "\n").encode())

    def _write_raw(self, data: bytes) -> None:
        os.write(self._file, data)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines; one that was cut off by a crash is left out."""
    lines = []
    for text in path.read_bytes().splitlines() if path.exists() else ():
        try:
            line = json.loads(text) if text else None
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines
