"""Reads a kubeconfig with Kubernetes's library: client certificates, commands that print a token, and the rest.

The one module that imports the library.  Only a process outside of a cluster loads this module, because the library
costs 20 MiB.
"""

from pathlib import Path

import yaml
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.kube_config import load_kube_config

from services.kube.access import Access, KubeConfigError


async def read_kubeconfig(path: str) -> Access:
    """The server and the credentials of the current context.

    Raises:
        KubeConfigError: there is no such file, or it cannot be used.
    """
    settings = Configuration()
    try:
        loaded = await load_kube_config(path, client_configuration=settings, persist_config=False)  # type: ignore[no-untyped-call]
    except (ConfigException, OSError) as error:
        raise KubeConfigError(f"kubernetes: {path}: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        # The library looks at parts of a file that are not there.
        raise KubeConfigError(f"kubernetes: {path}: not a usable kubeconfig: {error}") from None
    token_file = loaded._user.safe_get("tokenFile")  # noqa: SLF001 - the library reads it once, and it rotates
    return Access(
        url=settings.host,
        authority=settings.ssl_ca_cert,
        authorization=settings.api_key.get("BearerToken"),
        token_file=None if token_file is None else str(Path(path).parent / token_file),
        is_verified=bool(settings.verify_ssl),
        certificate=settings.cert_file,
        key=settings.key_file,
        server_name=settings.tls_server_name,
        proxy=settings.proxy,
    )
