"""The type of an option that names a policy: one of Sluice's, another package's, or ``module:Class``."""

from typing import Any

import click

from services.control.policies import POLICIES, find_policy, policy_names
from services.control.policies.foreign import UnknownPolicy


class PolicyName(click.ParamType[str]):
    """A policy's name, loaded at once, so that a mistake is found before anything runs."""

    name = "policy"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The names here, as of a choice."""
        return f"[{'|'.join(sorted(POLICIES))}|NAME|MODULE:CLASS]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check that it can be loaded."""
        try:
            find_policy(value)
        except UnknownPolicy as error:
            self.fail(f"{error}; there are {', '.join(policy_names())}", param, ctx)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)
