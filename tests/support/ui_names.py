"""Names that try to become markup, to reverse the text around them, or to fill the screen."""

from msgspec import structs

from schemas.config import Config
from schemas.domain import Critical

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>\u202eevil\u2066"
LONG = "x" * 253
RIGHT_TO_LEFT = "\u200fخط التجميع\u200e \u2067ב\u2069"


def rename(of: Config) -> Config:
    """Give two or three domains, their workloads and targets such names."""
    changed = []
    for domain, name in zip(of.domains, (HOSTILE, LONG, RIGHT_TO_LEFT), strict=False):
        key = name.replace("/", "").replace(" ", "")
        changed.append(
            structs.replace(
                domain,
                name=name,
                critical=(Critical(key, "<b>" if name is HOSTILE else "n"),),
                # A target's key belongs to one domain.
                targets=tuple(
                    structs.replace(one, deployment=f"{key[:252]}{i}") for i, one in enumerate(domain.targets)
                ),
            )
        )
    return structs.replace(of, domains=tuple(changed))
