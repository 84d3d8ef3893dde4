"""The control core: pure functions from samples to decisions.

No I/O, no clock, no async, no logging: the live service, replay, simulation and the proofs all call
``Controller``.  A sample passes through ``observation`` (what happened), a policy (what would be best),
``allocation`` (who gets how much) and ``shield`` (what is allowed).
"""

from services.control.admission import FutureSample, RejectedSample, StaleSample, rejection_reason
from services.control.controller import Controller
from services.control.policies import POLICIES, make_policy

__all__ = [
    "POLICIES",
    "Controller",
    "FutureSample",
    "RejectedSample",
    "StaleSample",
    "make_policy",
    "rejection_reason",
]
