"""How much memory an actuator needs for so many targets and pods, as measured.  Pure."""

ACTUATOR_MIB = 80
"""The actuator's memory limit in the manifests."""
_BASE_KIB, _TARGET_KIB, _POD_KIB = 49_000, 32.0, 2.4
"""Of the actuator, of each target and of each Pod: ``sluice bench memory --worst --only actuator`` measures the sum."""


def estimate_memory(targets: int, pods: int) -> int:
    """The memory that an actuator needs at most, MiB."""
    return round((_BASE_KIB + _TARGET_KIB * targets + _POD_KIB * pods) / 1024)


def explain_size(targets: int, pods: int, how: str) -> str | None:
    """Why so many targets and pods are too much for one actuator, and the remedy; None where they are not.

    Args:
        targets: how many.
        pods: of all of them.
        how: says in words where the number of pods is from: ``of 10 Pods each``.
    """
    needed = estimate_memory(targets, pods)
    if needed <= ACTUATOR_MIB:
        return None
    return (
        f"{targets} targets {how} need about {needed} MiB in one actuator, and the manifest's limit is "
        f"{ACTUATOR_MIB}: raise it, or run several actuators with a part of the targets each"
    )
