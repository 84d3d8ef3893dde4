"""The pytest plugin of every run: checks required parts, cleans up, and keeps failures apart.

A test that needs a missing part (root, a real API server, Docker, Prometheus) is skipped, and the report names what to
install.  If the machine claims to have every part (SLUICE_ALL_PARTS=1, as in CI), a skip is a failure: otherwise a
missing part would go unnoticed.
"""

import fcntl
import gc
import os
import sys
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from _pytest.reports import CollectErrorRepr

from tests.support import guard, needs, scheduler
from tests.support.run_report import LACKS, Reporter
from tests.support.waiting import PATIENCE_S

_RUN = pytest.StashKey[guard.Run]()
_HOME = pytest.StashKey[Path]()
"""The folder of this process's temporary files."""
_SHARED = pytest.StashKey[Path]()
"""The folder of the whole run."""
_BEFORE = pytest.StashKey[frozenset[int]]()
"""Processes that existed when the test's set-up began."""
_FAILED = pytest.StashKey[bool]()
_COLD = pytest.StashKey[bool]()
"""Whether no test has been compiled yet."""
_STARTED: dict[pytest.FixtureDef[Any], frozenset[int]] = {}
"""By fixture that several tests share, the processes that it started."""
_ENDED: set[int] = set()
"""Those of fixtures that were torn down with this test."""
SETTINGS = {
    "PIP_CONFIG_FILE": ".config/pip/pip.conf",
    "NPM_CONFIG_USERCONFIG": ".npmrc",
    "DOCKER_CONFIG": ".docker",
    "GIT_CONFIG_GLOBAL": ".gitconfig",
    "PYENV_ROOT": ".pyenv",
    "ASDF_DATA_DIR": ".asdf",
}
"""Variables that name what a user has set up below HOME."""
_KINDS = ("e2e", "contract", "integration", "property", "golden", "unit")
"""The order of a run: slow kinds first, so that the workers end at about the same time."""
_SERVERS = 2
"""How many workers run the tests on a real API server: each of them has a server of its own."""


def is_worker(config: pytest.Config) -> bool:
    """Whether this process runs tests for a controlling process."""
    return hasattr(config, "workerinput")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Create the run's folder within the checkout; each worker has a part of its own in it."""
    if is_worker(config):
        worker: dict[str, Any] = config.workerinput  # type: ignore[attr-defined]
        shared = Path(worker["folder"])
        config.stash[_COLD] = worker["cold"]
        home = shared / worker["workerid"]
    else:
        _let_python_cache()
        config.stash[_COLD] = not any(Path(__file__).parents[1].glob("unit/*/__pycache__/test_*-pytest-*.pyc"))
        config.stash[_RUN] = run = guard.Run()
        shared, home = run.folder, run.folder / "main"
        if config.option.basetemp is None:
            config.option.basetemp = str(shared / "p")
        config.pluginmanager.register(Reporter(config), "sluice-reporter")
    config.stash[_SHARED], config.stash[_HOME] = shared, home
    guard.enter(home)
    _leave_home(home / "home")


def _let_python_cache() -> None:
    """Let this process and its children keep what they compile: they load the same modules hundreds of times."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def _leave_home(folder: Path) -> None:
    """Let every program keep its caches in a folder of the run instead of the user's home; settings there stay."""
    folder.mkdir()
    with suppress(RuntimeError):
        for variable, name in SETTINGS.items():
            path = Path.home() / name
            if path.exists():
                os.environ.setdefault(variable, str(path))
    os.environ["HOME"] = str(folder)
    os.environ.pop("XDG_CACHE_HOME", None)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the run's folder to a worker, and whether it has to compile the tests."""
    node.workerinput["folder"] = str(node.config.stash[_SHARED])
    node.workerinput["cold"] = node.config.stash[_COLD]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """End what a worker left that was killed, or that crashed: another one takes its place."""
    if error is not None:
        guard.end_all(node.config.stash[_SHARED] / node.workerinput["workerid"])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folder, and report every process that had to be ended."""
    if _RUN in config.stash:
        left = config.stash[_RUN].end()
        if left:
            config.get_terminal_writer().line(f"\nstill running at the end, and killed:\n{left}", red=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Three workers for each of a few processors: tests wait for services more than they compute."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(3 * processors, max(processors, 12), 64)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep groups of tests together."""
    return scheduler.Scheduling(config, log, config.stash[_SHARED])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Let one worker compile the tests and what they import, where nothing is compiled yet; the others wait for it."""
    config = session.config
    with _turn_to_compile(config.stash[_SHARED]) if is_worker(config) and config.stash[_COLD] else nullcontext():
        with _no_collection():
            collected = yield
        # Modules and tests stay to the end: no collection of garbage has to look at them.
        gc.freeze()
    return collected


@contextmanager
def _turn_to_compile(folder: Path) -> Iterator[None]:
    """Run alone until one worker is done, then together."""
    with (folder / "compile.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock.fileno()).st_size:
            fcntl.flock(lock, fcntl.LOCK_UN)
        yield
        lock.write("compiled\n")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run long tests first, and on one worker each those that measure, and those with one expensive fixture."""
    groups = {item.nodeid: group for item in items if (group := _group(item))}
    kept = {"realtime", "docker"}
    on_server = [item.nodeid for item in items if item.get_closest_marker("apiserver")]
    on_server = [one for one in on_server if groups.get(one) not in kept]
    # Tests that share a fixture of their module stay together, on one of the workers that have a server.
    places = {place: count for count, place in enumerate(dict.fromkeys(groups.get(one, one) for one in on_server))}
    groups |= {one: f"apiserver-{places[groups.get(one, one)] % _SERVERS}" for one in on_server}
    items.sort(key=lambda item: (*_turn(item), groups.get(item.nodeid, "")))
    if is_worker(config):
        scheduler.tell(config.stash[_SHARED], groups)


def _turn(item: pytest.Item) -> tuple[bool, bool, bool, int]:
    (kind,) = item.nodeid.split("/")[1:2] or ("",)
    measures, is_long, needs_server = (
        item.get_closest_marker(one) is not None for one in ("realtime", "long", "apiserver")
    )
    return not measures, not is_long, not needs_server, _KINDS.index(kind) if kind in _KINDS else 0


def _group(item: pytest.Item) -> str | None:
    if item.get_closest_marker("realtime"):
        return "realtime"
    if item.get_closest_marker("docker"):
        return "docker"
    fixtures = item._fixtureinfo.name2fixturedefs.values() if isinstance(item, pytest.Function) else ()
    scopes = {one.scope: one.baseid for several in fixtures for one in several}
    return scopes.get("package") or scopes.get("module")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Release what a failed test still holds before the next one begins."""
    path = os.environ["PATH"]
    with _precedence() if item.get_closest_marker("realtime") else nullcontext():
        done = yield
    os.environ["PATH"] = path
    if item.stash.get(_FAILED, False):
        _forget_failure()
    return done


@contextmanager
def _precedence() -> Iterator[None]:
    """Let this thread and the processes that it starts run before those of other tests, where root may say so.

    Where the kernel shares the processors among sessions, a higher priority alone would count for nothing.
    """
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _forget_failure() -> None:
    """Collect objects that only a failure's traceback held: a socket among them would fail another test."""
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        sys.__dict__.pop(name, None)
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(3):
                gc.collect()
    finally:
        sys.unraisablehook = hook


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose part is missing; put only the programs of its own parts on PATH."""
    markers = [marker for marker in needs.PARTS if item.get_closest_marker(marker)]
    missing = [marker for marker in markers if needs.lacking(marker)]
    if missing:
        item.user_properties.append((LACKS, missing))
        lacks = dict.fromkeys(one for marker in missing for one in needs.lacking(marker))
        pytest.skip("needs " + "; ".join(f"{one.name} ({one.install})" for one in lacks))
    os.environ["PATH"] = needs.narrow_path(markers, item.config.stash[_HOME] / "path")
    item.stash[_BEFORE] = guard.pids()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Let the processes of a fixture that several tests share outlive a test; those of one that fails do not."""
    if fixturedef.scope == "function":
        return (yield)
    before = guard.pids()
    value = yield
    _STARTED[fixturedef] = frozenset(guard.find_marked(request.config.stash[_HOME], before))
    guard.LASTING.update(_STARTED[fixturedef])
    return value


def pytest_fixture_post_finalizer(fixturedef: pytest.FixtureDef[Any]) -> None:
    """They do not outlive the fixture."""
    started = _STARTED.pop(fixturedef, frozenset())
    guard.LASTING.difference_update(started)
    _ENDED.update(started)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """End the processes that the test or its set-up left; an otherwise passing test fails for it."""
    _ENDED.clear()
    try:
        return (yield)
    except BaseException:
        item.stash[_FAILED] = True
        raise
    finally:
        if _BEFORE in item.stash:
            before = (item.stash[_BEFORE] - _ENDED) | guard.LASTING
            home = item.config.stash[_HOME]
            deadline = time.monotonic() + (0 if item.stash.get(_FAILED, False) else PATIENCE_S)
            while (left := list(guard.find_marked(home, before))) and time.monotonic() < deadline:
                time.sleep(0.02)
            commands = "\n".join(guard.command(pid) for pid in left)
            for pid in left:
                guard.kill(pid)
            deadline = time.monotonic() + PATIENCE_S
            while not all(map(guard.has_ended, left)) and time.monotonic() < deadline:
                time.sleep(0.02)
            if left and not item.stash.get(_FAILED, False):
                pytest.fail(f"left running:\n{commands}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a report in any case; a skip is a failure if this machine claims to have every part."""
    try:
        with _no_collection():
            report = yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the other tests are run
        report = _plain(item, call, error)
    if report.skipped and not hasattr(report, "wasxfail") and needs.all_parts():
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped although every part should be here: {report.longrepr}"
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a file that cannot be collected."""
    try:
        with _no_collection():
            return (yield)
    except Exception as unshown:  # noqa: BLE001 - whatever it is, the other files are collected
        text = repr(unshown)
        try:
            list(collector.collect())
        except Exception as error:  # noqa: BLE001 - this is the one to report
            text = f"{error!r} (shown without source lines: {text})"
        return pytest.CollectReport(collector.nodeid, "failed", CollectErrorRepr(text), [])


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect no garbage in this context.

    The parser of syntax trees in CPython 3.11.2, which shows tracebacks, fails if a finaliser enters it again: "AST
    constructor recursion depth mismatch" (python/cpython#106905).
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _plain(item: pytest.Item, call: pytest.CallInfo[None], error: Exception) -> pytest.TestReport:
    """A report without source lines, for a failure that cannot be formatted."""
    assert call.excinfo is not None
    assert call.when != "collect"
    frames = [f"{one.path}:{one.lineno + 1}: {one.name}" for one in call.excinfo.traceback]
    text = "\n".join([*frames, call.excinfo.exconly(), f"(shown without source lines: {error!r})"])
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome="failed",
        longrepr=text,
        when=call.when,
        duration=call.duration,
        start=call.start,
        stop=call.stop,
        user_properties=item.user_properties,
    )
