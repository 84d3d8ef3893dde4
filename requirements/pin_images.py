"""Pins base images by digest: ``make digests``.

Each image of a registry that a file names by its tag gets ``@sha256:...`` behind the tag, as the registry has it now.
An image whose registry cannot be reached keeps its tag and is named.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = ("Dockerfile", "docker-compose.yaml", "manifests/nats.yaml", "manifests/robot-factory-application.yaml")
IMAGE = re.compile(r"(?<![/\w])((?:prom/)?(?:python|nats|nginx|prometheus):[a-zA-Z0-9.-]+)(@sha256:[0-9a-f]{64})?")


def find_digest(image: str) -> str | None:
    """Ask the image's registry for the digest of its index; None where it does not answer."""
    command = ["docker", "buildx", "imagetools", "inspect", image, "--format", "{{.Manifest.Digest}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"sha256:[0-9a-f]{64}", done.stdout)
    return found[0] if done.returncode == 0 and found else None


def main() -> int:
    """Pin every image; the exit code is 1 if a digest could not be found out."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in FILES}
    images = sorted({match[1] for text in texts.values() for match in IMAGE.finditer(text)})
    digests = {image: find_digest(image) for image in images}
    for image, digest in digests.items():
        sys.stdout.write(f"{image:32} {digest or 'unknown: its registry cannot be reached'}\n")
    for name, text in texts.items():
        pinned = IMAGE.sub(lambda match: f"{match[1]}@{digests[match[1]]}" if digests[match[1]] else match[0], text)
        (ROOT / name).write_text(pinned, encoding="utf-8")
    return 0 if all(digests.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
