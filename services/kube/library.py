"""The asynchronous part of Kubernetes's library, alone: the rest would cost every pod 7 MiB.

The library's top package imports its synchronous client, requests and oauthlib, which no service uses.
"""

import sys
from importlib.util import find_spec
from types import ModuleType

# An empty module in the place of the top package.  Every part of it can still be imported by its name.
_spec = find_spec("kubernetes")
if _spec is not None and "kubernetes" not in sys.modules:
    _package = ModuleType("kubernetes")
    _package.__path__ = list(_spec.submodule_search_locations or ())
    _package.__spec__ = _spec
    sys.modules["kubernetes"] = _package

from kubernetes.aio.client.api_client import ApiClient  # noqa: E402
from kubernetes.aio.client.configuration import Configuration  # noqa: E402
from kubernetes.aio.config.config_exception import ConfigException  # noqa: E402
from kubernetes.aio.config.kube_config import load_kube_config  # noqa: E402

__all__ = ("ApiClient", "ConfigException", "Configuration", "load_kube_config")
