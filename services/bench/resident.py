"""How much memory a process takes."""

from pathlib import Path


def read_resident(pid: int) -> float:
    """A process's resident memory now, MiB."""
    return _read(pid, "VmRSS:")


def read_peak(pid: int) -> float:
    """A process's largest resident memory so far, MiB."""
    return _read(pid, "VmHWM:")


def _read(pid: int, field: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition(field)[2].split()[0]) / 1024
