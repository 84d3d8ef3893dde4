"""The control core: pure functions from samples to decisions.

No I/O, no clock, no async, no logging: the live service, replay, simulation and the proofs all call
``Controller.step``.  A sample passes through ``observe`` (what happened), a policy (what would be best),
``share`` (who gets how much) and ``shield`` (what is allowed).
"""

from services.control.controller import Controller, StaleSample, overruled, step
from services.control.fencing import refused
from services.control.policies import POLICIES, make_policy

__all__ = ["POLICIES", "Controller", "StaleSample", "make_policy", "overruled", "refused", "step"]
