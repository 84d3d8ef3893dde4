"""What the actuator counts and measures.  Only what is worth a row per target has one."""

from typing import get_args

from prometheus_client import Counter, Gauge, Histogram

from schemas.messages import Cause

patches = Counter("sluice_patches", "Objects patched, or not, by why and how it went", ["cause", "outcome"])
for _cause in get_args(Cause):
    # An alert sees increases only: a failure must have been seen at zero.
    patches.labels(_cause, "failed")
conflicts = Counter("sluice_patch_conflicts", "Patches whose object was not as it was seen")
refused = Counter("sluice_decisions_refused", "Decisions not put in force", ["reason"])
recovered = Counter("sluice_reports_recovered", "Actions reported from what the objects carry")
dead_man = Counter("sluice_dead_man", "Fail-safe limits applied for want of a decision", ["target"])
limit = Gauge("sluice_limit_kbit", "Limit in force on the workload", ["target"])
pod_limit = Gauge("sluice_pod_limit_kbit", "What each Pod may send", ["target"])
paused = Gauge("sluice_target_paused", "1 while the target is paused because of a foreign value", ["target"])
not_enforced = Gauge(
    "sluice_limit_not_enforced", "1 while a target sends more than its Pods' annotations allow", ["target"]
)
stray_pods = Gauge(
    "sluice_stray_pods", "Pods that a target's object selects and that are no target's", ["target", "namespace"]
)
leftovers = Gauge("sluice_limits_left_over", "Workloads with a limit of Sluice's that are in no configuration")
pending = Gauge("sluice_reports_pending", "Reports that the bus has not acknowledged")
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
since_sample = Histogram(
    "sluice_sample_to_applied_seconds", "From the end of a sample's window to the last patch", buckets=_BUCKETS
)
since_decision = Histogram(
    "sluice_decision_to_applied_seconds", "From a decision on the bus to the last patch", buckets=_BUCKETS
)
