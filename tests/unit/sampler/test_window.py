"""Increases of counters over a window of pages."""

from services.sampler.scrape.parser import CounterSeries, ScrapedPage
from services.sampler.scrape.window import PageWindow

WINDOW = 4
ROBOT = CounterSeries("latency", "f/robot", (), (1.0,))
LOST = CounterSeries("lost", "f/robot", ())
SENT = CounterSeries("throughput", "f/upload", (("pod", "a"),))


def page(
    counters: dict[CounterSeries, tuple[float, ...]], stamps: dict[CounterSeries, int] | None = None
) -> ScrapedPage:
    """A page without faults."""
    return ScrapedPage(counters, stamps or {}, {})


def after(*pages: ScrapedPage) -> PageWindow:
    """A history whose pages were read one ns after another, ending at 1, 2, 3 and so on."""
    history = PageWindow(WINDOW)
    for at, one in enumerate(pages, start=1):
        history.add(at, at * 1e-9, one)
    return history


def test_one_page_gives_no_increase() -> None:
    """A counter's value alone is no rate."""
    assert after(page({ROBOT: (5, 9)})).increases() == {}


def test_increase_is_from_the_first_page_of_the_window_to_the_last() -> None:
    """Pages before the window do not count."""
    history = after(*(page({ROBOT: (at, 2 * at)}) for at in range(10)))
    assert history.increases()[ROBOT].counts == [4, 8]
    assert history.start == 10 - WINDOW


def test_a_reset_counts_from_zero() -> None:
    """The exporter restarted: counts from before and after the restart are both in the window."""
    history = after(page({ROBOT: (5, 10)}), page({ROBOT: (7, 15)}), page({ROBOT: (2, 3)}))
    assert history.increases()[ROBOT].counts == [4, 8]


def test_a_reset_is_one_of_the_whole_histogram() -> None:
    """A bucket with more counts than before the restart also counts from zero, as the others do."""
    history = after(page({ROBOT: (5, 90)}), page({ROBOT: (5, 100)}), page({ROBOT: (10, 10)}))
    assert history.increases()[ROBOT].counts == [10, 20]


def test_a_new_series_counts_from_its_second_page() -> None:
    """Its first value is unknown; Prometheus does the same."""
    history = after(page({}), page({ROBOT: (5, 10)}), page({ROBOT: (6, 12)}))
    assert history.increases()[ROBOT].counts == [1, 2]


def test_a_loss_that_appears_counts_from_zero() -> None:
    """An exporter may create a series only at its first loss, which must not be hidden."""
    assert after(page({}), page({LOST: (3,)})).increases()[LOST].counts == [3]


def test_a_loss_counter_on_the_very_first_page_counts_from_there() -> None:
    """Losses from before the sampler started are not in this window."""
    assert after(page({LOST: (3,)})).increases() == {}
    assert after(page({LOST: (3,)}), page({LOST: (3,)})).increases()[LOST].counts == [0]


def test_a_series_that_was_missing_once_goes_on_where_it_was() -> None:
    """A page without it shows nothing, above all not a restart of the counter."""
    history = after(page({LOST: (7,)}), page({}), page({LOST: (7,)}), page({LOST: (8,)}))
    assert history.increases()[LOST].counts == [1]


def test_series_that_are_gone_are_forgotten() -> None:
    """After a window without the series its history is dropped."""
    history = after(page({ROBOT: (1, 1)}), *(page({}) for _ in range(6)))
    assert history._last == {}
    assert history.increases() == {}
    assert history.workloads("latency") == set()


def test_present_is_what_the_newest_page_shows() -> None:
    """A workload that left the page is not measured any more, whatever the window still holds."""
    history = after(page({ROBOT: (1, 1)}), page({ROBOT: (2, 2)}), page({}))
    assert history.workloads("latency") == {"f/robot"}
    assert history.present == set()


def test_whom_the_newest_page_named_stays_known() -> None:
    """If no page arrives, the exporter still holds their counts.  The next page ends that."""
    history = after(page({ROBOT: (1, 1)}), page({SENT: (2,)}))
    history.drop_old(100, 100e-9)
    assert history.workloads("latency") == set()
    assert history.workloads("throughput") == {"f/upload"}
    history.add(101, 101e-9, page({}))
    assert history.workloads("throughput") == set()


def test_a_gap_longer_than_the_window_resets_it() -> None:
    """Counters from before the gap do not count in the window after it."""
    history = after(page({ROBOT: (1, 1)}), page({ROBOT: (2, 2)}))
    history.add(100, 100e-9, page({ROBOT: (50, 50)}))
    assert history.increases() == {}


def test_pages_that_only_look_recent_are_dropped() -> None:
    """The wall clock was set back and an hour passed: the next window end is near, the last page is not."""
    history = after(page({ROBOT: (1, 1)}), page({ROBOT: (2, 2)}))
    history.add(3, 3600.0, page({ROBOT: (9000, 9000)}))
    assert history.increases() == {}


def test_time_is_the_clocks_unless_the_page_has_timestamps() -> None:
    """The kubelet counts every ten seconds, with a timestamp: between two counts there is no rate."""
    history = after(page({SENT: (100,)}), page({SENT: (300,)}), page({SENT: (500,)}))
    assert abs(history.increases()[SENT].seconds - 2e-9) < 1e-15
    same = after(page({SENT: (100,)}, {SENT: 5000}), page({SENT: (100,)}, {SENT: 5000}))
    assert same.increases()[SENT].seconds == 0
    recounted = after(page({SENT: (100,)}, {SENT: 5000}), page({SENT: (300,)}, {SENT: 7500}))
    assert recounted.increases()[SENT].seconds == 2.5


def test_increases_over_two_pages_are_those_of_the_newest_page() -> None:
    """The increase between the last two pages, over the time between them; none after a single page."""
    history = after(page({SENT: (1,)}), page({SENT: (5,)}), page({SENT: (12,)}))
    gain = history.increases(2)[SENT]
    assert gain.counts == [7]
    assert round(gain.seconds * 1e9) == 1
    assert after(page({SENT: (1,)})).increases(2) == {}


def test_increases_use_the_pages_timestamps() -> None:
    """Millisecond timestamps of the last two pages."""
    history = after(
        page({SENT: (1,)}, {SENT: 1000}), page({SENT: (5,)}, {SENT: 1500}), page({SENT: (9,)}, {SENT: 1750})
    )
    assert history.increases(2)[SENT].seconds == 0.25
