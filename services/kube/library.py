"""The parts of Kubernetes's library that the services use, alone: the rest would cost every pod 8 MiB.

The library's top package imports its synchronous client, requests and oauthlib, and the package of its asynchronous
part imports the dynamic client and urllib3.  No service uses them.
"""

import sys
from importlib.util import find_spec
from types import ModuleType

# An empty module in the place of each of the two packages.  Every part of them can still be imported by its name.
for _name in ("kubernetes", "kubernetes.aio"):
    _spec = find_spec(_name)
    if _spec is not None and _name not in sys.modules:
        _package = ModuleType(_name)
        _package.__path__ = list(_spec.submodule_search_locations or ())
        _package.__spec__ = _spec
        sys.modules[_name] = _package
        _parent, _, _child = _name.rpartition(".")
        if _parent:
            setattr(sys.modules[_parent], _child, _package)

from kubernetes.aio.client.api_client import ApiClient  # noqa: E402
from kubernetes.aio.client.configuration import Configuration  # noqa: E402
from kubernetes.aio.config.config_exception import ConfigException  # noqa: E402
from kubernetes.aio.config.kube_config import load_kube_config  # noqa: E402

__all__ = ("ApiClient", "ConfigException", "Configuration", "load_kube_config")
