"""The page in a real browser, at phone and desktop width, light and dark: nothing leaves it, nothing overflows, text can be read."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import browser as chrome
import pytest
import sample
from test_report_page import HOSTILE, poisoned

from datadistill.report import html
from datadistill.text import safe

pytestmark = [
    pytest.mark.skipif(chrome.find() is None, reason="no Chromium here (Debian: apt-get install chromium fonts-dejavu-core)"),
    pytest.mark.timeout(180),
]

DIGITS = [str(k) for k in range(10)]
MANY = [f"class {k:03d}{' with a rather long name of its own' if k % 3 == 0 else ''}" for k in range(200)]
WIDE = tuple(f"a column called {k}" for k in range(60))
PAGES = {
    "pictures": lambda: html(sample.manifest(DIGITS), sample.pictures(DIGITS), sample.evaluation(DIGITS), loading=sample.LOADING),
    "rows": lambda: html(sample.manifest(["<=50K", ">50K"], selection=True), sample.rows(["<=50K", ">50K"]), sample.evaluation(["<=50K", ">50K"], "USE-CORESET")),
    "many": lambda: html(sample.manifest(MANY, per_class=1, notes=["resumed at step 400 of 4000"]), sample.pictures(MANY, 1, 32, "RGB"), sample.evaluation(MANY, "FAIL", per_class=1)),
    "wide": lambda: html(sample.manifest(["a", "b"], per_class=2, data={}), sample.rows(["a", "b"], 2, WIDE)),
    "hostile": lambda: poisoned(HOSTILE),
}
LOUD = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Page.javascriptDialogOpening", "Page.frameRequestedNavigation", "Page.windowOpen")

# The lowest contrast of any text with what is painted behind it (WCAG 2: 4.5 is enough for text of this size).
CONTRAST = """(() => {
  const rgba = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const over = (a, b) => { const t = a.length > 3 ? a[3] : 1; return [0, 1, 2].map(i => a[i] * t + b[i] * (1 - t)); };
  const light = c => c.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
  const behind = e => e ? over(rgba(getComputedStyle(e).backgroundColor), behind(e.parentElement)) : [255, 255, 255];
  let worst = [99, ''];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), back = behind(e), front = over(rgba(e instanceof SVGElement ? style.fill : style.color), back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    if (ratio < worst[0]) worst = [ratio, walk.currentNode.data.slice(0, 60)];
  }
  return worst;
})()"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with chrome.chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, make in PAGES.items():
        (folder / f"{name}.html").write_text(make(), encoding="utf-8")
    return folder


def strangers(tab: chrome.Chromium, page: Path) -> list[str]:
    """Addresses asked for, other than the page's own."""
    urls = [e["request"]["url"] for e in tab.happened("Network.requestWillBeSent")]
    assert page.as_uri() in urls
    return [u for u in urls if u != page.as_uri() and not u.startswith("data:image/png;base64,")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
@pytest.mark.parametrize("name", PAGES)
def test_page(tab, files, name, width, height, scheme):
    page = files / f"{name}.html"
    tab.visit(page, width, height, scheme)
    screenshot(tab, f"{name}-{width}-{scheme}")
    tab.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.value("innerWidth") == tab.value("document.documentElement.clientWidth") == width
    assert tab.value("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    assert tab.value("[...document.images].filter(i => !i.complete || !i.naturalWidth).length") == 0
    assert tab.value("document.scripts.length") == 0
    assert tab.value("matchMedia('(prefers-color-scheme: dark)').matches") is (scheme == "dark")
    ground = tab.value("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is (scheme == "light")
    ratio, text = tab.value(CONTRAST)
    assert ratio >= 4.5, f"{ratio:.2f} is too little contrast: {text!r}"
    assert strangers(tab, page) == []
    assert tab.happened(*LOUD) == []


def test_hostile_names_stay_text(tab, files):
    tab.visit(files / "hostile.html", 1280, 900, "light")
    assert tab.value("document.title") == f"{HOSTILE[0]}, {HOSTILE[1]} · datadistill"
    shown = tab.value("[...document.querySelectorAll('bdi')].map(b => b.textContent)")
    for name in HOSTILE:
        assert safe(name) in shown
    assert tab.value("[...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length") == 0


def test_the_policy_holds_and_this_test_would_see_a_breach(tab, files):
    """A script, a remote picture and an event handler put into the page by hand: refused by the policy, and noticed here."""
    planted = '<script>document.title = "owned"</script><img src="https://example.invalid/x.png" onerror="document.title = \'owned\'"></main>'
    page = files / "planted.html"
    page.write_text(PAGES["rows"]().replace("</main>", planted), encoding="utf-8")
    tab.visit(page, 1280, 900, "light")
    assert "owned" not in tab.value("document.title")
    refusals = [e["entry"]["text"] for e in tab.happened("Log.entryAdded")]
    for directive in ("script-src", "img-src data:"):
        assert any(directive in text and "Content Security Policy" in text for text in refusals), refusals


def test_the_contrast_check_sees_pale_text(tab, files):
    page = files / "pale.html"
    page.write_text(PAGES["rows"]().replace("--quiet: #5b636d", "--quiet: #b0b0b0"), encoding="utf-8")
    tab.visit(page, 1280, 900, "light")
    assert tab.value(CONTRAST)[0] < 4.5


def screenshot(tab: chrome.Chromium, name: str) -> None:
    """The whole page as folded, for a person to look at: screenshots/ or $DATADISTILL_SCREENSHOTS."""
    folder = Path(os.environ.get("DATADISTILL_SCREENSHOTS") or Path(__file__).parents[2] / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    png = tab.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
    (folder / f"report-{name}.png").write_bytes(base64.b64decode(png))
