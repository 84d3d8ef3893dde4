"""`sluice check --cluster` where the API server's answers are long, or something else."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from schemas.config import Config, Kubernetes
from schemas.domain import Critical, Domain, Target
from schemas.units import Rate
from services.kube.client import KubeClient
from services.tools.check.cluster_reader import _list_pages, check_cluster

TARGET = Target(deployment="upload", min=Rate(1000), max=Rate(9000), fail_safe=Rate(2000))
POD = '{"metadata": {"name": "a", "namespace": "default"}}'


@asynccontextmanager
async def answering(answer: Callable[[web.Request], str]) -> AsyncIterator[Kubernetes]:
    """An API server that gives these answers."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(text=answer(request), content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server:
        yield Kubernetes(server=str(server.make_url("/")))


@pytest.mark.parametrize(
    "text",
    [
        *("null", "[]", "{}", "", "3", '"x"', "<html>Sign in</html>", '{"kind": "Status", "status": "Failure"}'),
        *(
            '{"items": null}',
            '{"items": {}}',
            '{"items": [null, 3]}',
            '{"items": [{}]}',
            '{"items": [{"metadata": null}]}',
        ),
        *(f'{{"items": [{POD}]}}', '{"metadata": [], "spec": [], "status": []}', "[" * 5000),
    ],
)
async def test_answers_that_are_something_else_are_one_error(text: str) -> None:
    """With the reason, and no traceback."""
    async with answering(lambda _: text) as settings:
        config = Config((Domain("cell", (Critical("robot"),), (TARGET,)),), kubernetes=settings)
        (finding,) = (await check_cluster(config)).findings
    assert finding.level == "error"
    assert "not what was asked for" in finding.what or "is no list" in finding.what


async def test_a_long_list_comes_in_pages() -> None:
    """Each with the token of the one before, encoded."""
    asked: list[Any] = []

    def answer(request: web.Request) -> str:
        asked.append((request.query["limit"], request.query.get("continue")))
        more = '"a+b/c=="' if len(asked) < 3 else '""'
        return f'{{"metadata": {{"continue": {more}}}, "items": [{POD}]}}'

    async with answering(answer) as settings, KubeClient.connect(settings) as client:
        assert len(await _list_pages(client, "/api/v1/pods")) == 3
    assert asked == [("200", None), ("200", "a+b/c=="), ("200", "a+b/c==")]
