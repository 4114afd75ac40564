"""The page at `/`, in a real browser."""

import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bridge.cluster import free_port
from bridge.health import Health
from bridge.lag import Retained
from bridge.listener import Listener
from bridge.page import page
from bridge.units import Address
from bridge.window_facts import Facts
from tests.acceptance.test_streaming import config
from tests.servers.browser import Browser
from tests.servers.postgres import Database
from tests.servers.waiting import wait_until

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield made
    made.close()


@pytest.fixture
def fresh(browser: Browser) -> Browser:
    """The browser with nothing to complain of."""
    browser.open("about:blank")
    browser("1")
    browser.complaints.clear()
    browser.requests.clear()
    return browser


def height(browser: Browser, chart: str) -> list[float]:
    """The chart's line: how far each point is above the ground, from 0 to 1."""
    path = browser(f"document.querySelector('#{chart} path')?.getAttribute('d') ?? ''")
    return [(130 - float(y)) / 112 for y in re.findall(r"[ML]\S+ (\S+?)(?=[ML]|$)", path)]


def test_a_running_bridge_shows_what_it_does(database: Database, bridge: Any, fresh: Browser) -> None:
    database.execute("create table note (id int primary key); grant select on note to authenticated")
    database.subscribe("note", role="authenticated")
    port = free_port()
    running = bridge(config=config(database, http={"listen": f"127.0.0.1:{port}"}))
    running.wait_until_streaming()

    # When somebody opens the page, and changes come
    fresh.open(f"http://127.0.0.1:{port}/")
    wait_until(lambda: fresh.text("#state") == "streaming", "streaming")
    wait_until(lambda: len(height(fresh, "rate")) >= 1, "a rate")
    database.execute("insert into note select generate_series(1, 40)")
    running.wait_for_events(40)

    # Then it shows them by itself, in numbers and as a line
    wait_until(lambda: "public.note\t40\t0" in fresh.text("#tables"), "the events")
    wait_until(lambda: max(height(fresh, "rate")) > 0.2, "a rate above 0")
    wait_until(lambda: fresh.text("#lag output") == "0 s", "no lag")
    wait_until(lambda: f"{database.slot}\tstreaming\t" in fresh.text("#slots"), "the slot")
    assert re.search(r"no limit|iB", fresh.text("#slots"))
    assert fresh.text("#letters").strip().endswith("None.")
    assert re.search(r"In flight\s+0 events, 0 B", fresh.text("#facts"))
    assert fresh.text("#problem") == ""

    # And asks nobody but the bridge
    assert {address.partition("?")[0] for address in fresh.requests if not address.startswith("data:")} <= {
        f"http://127.0.0.1:{port}/",
        f"http://127.0.0.1:{port}/status",
        "about:blank",
    }
    assert fresh.complaints == []

    # When the bridge ends, that is said, and what was known stays
    assert running.stop() == 0
    wait_until(lambda: "does not answer" in fresh.text("#problem"), "the problem")
    assert "What is shown is of" in fresh.text("#problem")
    assert fresh.text("#state") == "not reachable"
    assert "public.note\t40" in fresh.text("#tables")


@pytest.fixture
def health() -> Iterator[tuple[Health, str]]:
    """And its page's address."""
    health = Health("realtime", "kafka")
    health.streaming = True
    health.lag.looked(1000, time.time(), time.monotonic())
    health.confirmed(1000, time.monotonic())
    listener = Listener(Address("127.0.0.1:0"), health)
    yield health, f"http://127.0.0.1:{listener.port}/"
    listener.close()


def test_names_are_text_whatever_they_hold(health: tuple[Health, str], fresh: Browser) -> None:
    told, address = health
    told.slot = HOSTILE
    told.events["public", HOSTILE] = 3
    told.dead_letters[HOSTILE, "t"] = 2
    told.retained = Retained(5 << 20, -1)
    told.replay = Facts(f"{HOSTILE}_replay", 1, None, 3 << 30, 1, "reserved")
    told.tally.ways["public", "t", HOSTILE] = HOSTILE

    fresh.open(address)
    wait_until(lambda: fresh.text("#state") == "streaming", "the page")

    assert f"public.{HOSTILE}\t3\t0" in fresh.text("#tables")
    assert f"{HOSTILE}.t\t2" in fresh.text("#letters")
    assert f"{HOSTILE}\tstreaming\t5 MiB\t-1 B" in fresh.text("#slots")
    assert f"{HOSTILE}_replay\tthe replay window\t3 GiB" in fresh.text("#slots")
    assert f"one by one: {HOSTILE}" in fresh.text("#ways")
    assert fresh("document.querySelectorAll('img, td script, h2 script').length") == 0
    assert fresh("document.title") == f"{HOSTILE} – walrus-bridge"
    assert fresh.complaints == []


def test_a_script_that_is_not_the_pages_own_does_not_run(health: tuple[Health, str], fresh: Browser) -> None:
    """Even where a name became a part of the page."""
    fresh.open(health[1])
    wait_until(lambda: fresh.text("#state") == "streaming", "the page")

    fresh("document.body.insertAdjacentHTML('beforeend', '<img src=data:, onerror=\"document.title=1\">')")
    fresh("document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title=1'}))")
    assert fresh("fetch('http://127.0.0.2:9/').then(() => 'went', () => 'refused')") == "refused"

    def complained() -> bool:
        fresh("0")  # they come with an answer
        return len(fresh.complaints) >= 3

    wait_until(complained, "three complaints")
    assert all("Content Security Policy" in each["text"] for each in fresh.complaints), fresh.complaints
    assert "realtime" in fresh("document.title")


def test_trouble_is_to_be_seen(health: tuple[Health, str], fresh: Browser) -> None:
    told, address = health
    fresh.open(address)
    wait_until(lambda: fresh.text("#state") == "streaming", "the page")

    told.dead_letters["public", "odd"] = 1
    told.streaming = False
    wait_until(lambda: fresh.text("#state") == "not streaming", "the state")
    assert fresh("document.title").startswith("! ")
    assert re.search(r"Dead letters\s+1$", fresh.text("#facts"))
    told.loop_at -= 60
    wait_until(lambda: fresh.text("#state") == "stuck", "the state")


def test_more_tables_than_a_page_holds_are_counted(health: tuple[Health, str], fresh: Browser) -> None:
    told, address = health
    for number in range(1200):
        told.events["public", f"t{number}"] = 1

    fresh.open(address)
    wait_until(lambda: fresh.text("#state") == "streaming", "the page")

    text = fresh.text("#tables")
    assert "all others\t700\t0" in text
    assert "and 401 more: /status has all" in text
    assert len(text.splitlines()) < 110


@pytest.mark.parametrize("width", [360, 1100])
def test_it_fits_narrow_and_wide_windows(health: tuple[Health, str], fresh: Browser, width: int) -> None:
    health[0].events["public", "a_table_with_a_name_of_sixty_three_characters_as_long_as_they_may"] = 3
    fresh._ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    fresh.open(health[1])
    wait_until(lambda: fresh.text("#state") == "streaming", "the page")

    assert fresh("document.documentElement.scrollWidth") <= width


def test_dark_and_light_differ(health: tuple[Health, str], fresh: Browser) -> None:
    fresh.open(health[1])
    wait_until(lambda: fresh.text("#state") == "streaming", "the page")
    colours = {}
    for scheme in ("dark", "light"):
        fresh.prefer(scheme)
        colours[scheme] = fresh(
            "getComputedStyle(document.body).backgroundColor + getComputedStyle(document.body).color"
        )
    assert colours["dark"] != colours["light"]


def test_the_page_names_no_other_place(tmp_path: pathlib.Path) -> None:
    addresses = set(re.findall(rb"(?:https?:)?//[\w.]+", page()))
    assert addresses <= {b"http://www.w3.org"}  # SVG's name
