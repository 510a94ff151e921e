"""The page as text: nothing in it runs or is fetched, every name stays text, and the numbers are the evaluation's."""

from __future__ import annotations

import base64
import copy
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
import sample

from datadistill.modalities.base import Preview
from datadistill.report import Item, html
from datadistill.text import safe

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "' onmouseover='alert(3)",
    "</style></title><svg onload=alert(4)>",
    "\x1b[31mred\x1b[0m\x07\x00",
    "cat\u202egod\u2066\u200f",
    "caf\udce9 \ud800 \udfff",
    "{{7*7}} {% raw %} ${8*8} {{ cycler.__init__ }}",
    "javascript:alert(5)",
    "&lt;b&gt; &#60;i&#62; &amp;",
    "--><!--]]><![CDATA[",
    "x" * 5000,
    "Ẑ͖̲a̶͝l̵g̷o " * 20,
    "",
    "=cmd|' /C calc'!A0",
    "line one\nline two\r\n\tthree",
]
HARMLESS = [name and f"name {k}" for k, name in enumerate(HOSTILE)]
VOID = {"meta", "img", "line", "circle", "path"}
ATTRIBUTES = set(
    "lang charset name content http-equiv id class role tabindex aria-label aria-hidden scope style src width height alt href rel"
    " viewbox preserveaspectratio x x1 x2 y y1 y2 cx cy r d dy text-anchor".split()
)


class Page(HTMLParser):
    """Elements in order with their attributes, and all text."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []  # (innermost element, text)
        self.open: list[str] = []
        self.strange: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice on {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def handle_comment(self, data):
        self.strange.append(data)

    unknown_decl = handle_pi = handle_comment

    def text(self, *tags: str) -> str:
        return "".join(t for tag, t in self.texts if not tags or tag in tags)

    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(tag, tuple(attrs)) for tag, attrs in self.elements]

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for t, attrs in self.elements if t == tag]


def poisoned(names: list[str]) -> str:
    """A page with these names everywhere a name can come from outside."""
    n = len(names)
    manifest = sample.manifest(names, per_class=1, notes=list(names))
    manifest["data"] |= {"source": names[0], "kind": names[1], "modality": names[9], "modes": dict.fromkeys(names, 1), "mode": names[2], "warnings": list(names), "license": names[3],
                         "source_url": names[8], "split": {name: name for name in names}}
    manifest["data"]["rejects"] = [[name, name] for name in names]
    manifest["data"]["counts"]["train"] = dict.fromkeys(names, 12)
    manifest["method"] |= {"name": names[1], "family": names[2], "paper": names[0], "hyperparameters": dict(zip(names, reversed(names), strict=True)), "nets": list(names)}
    manifest |= {"packages": {name: name for name in names}, "recipe": {name: name for name in names if name}, "sha256": names[1], "seed": names[0]}
    manifest["files"] = {name: {"sha256": name, "bytes": 3} for name in names}
    manifest["curve"] = [{"step": k, names[0]: 1.0 / (k + 1), names[5]: float(k)} for k in range(5)]
    evaluation = sample.evaluation(names, "PASS", per_class=1, reason=names[0])
    evaluation["arms"]["coreset"]["method"] = names[1]
    evaluation |= {"notes": list(names), "data": {"source": names[1], "same_as_distilled": False}, "artifact": names[0]}
    evaluation["arms"]["coreset"]["candidates"] = dict.fromkeys(names, 0.5)
    for arm in evaluation["arms"].values():
        arm["students"] = dict.fromkeys(names, arm["accuracy"])
    evaluation["arms"][names[0]] = copy.deepcopy(evaluation["arms"]["random"])
    evaluation["protocol"] = {"name": names[0], "hash": names[1], "students": list(names), **{name: name for name in names}}
    cells = Preview(cells=tuple((name, names[(k + 1) % n]) for k, name in enumerate(names)))
    items = [Item(name, cells, cells, names[-k], 0.5) for k, name in enumerate(names)]
    items += [Item(name, Preview(png=sample.png(4, 0)), Preview(png=sample.png(4, 1)), names[-k], 0.5) for k, name in enumerate(names)]
    return html(manifest, items, evaluation, loading=dict(zip(names, reversed(names), strict=True)))


@pytest.fixture(scope="module")
def hostile() -> str:
    return poisoned(HOSTILE)


def test_hostile_names_change_no_element_and_no_attribute(hostile):
    # The code shown to a reader keeps its lines; nothing else of a name may reach the page's structure.
    assert Page(hostile).shape() == Page(poisoned(HARMLESS)).shape()


def test_nothing_runs_and_nothing_is_fetched(hostile):
    page = Page(hostile)
    assert not page.open and not page.strange
    assert not {"script", "iframe", "object", "embed", "link", "form", "base", "foreignobject", "use", "animate"} & {tag for tag, _ in page.elements}
    for tag, attrs in page.elements:
        assert set(attrs) <= ATTRIBUTES, (tag, attrs)
        assert "src" not in attrs or (tag == "img" and re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", attrs["src"]))
        assert "href" not in attrs or (tag == "a" and attrs["href"].startswith("https://") and "noreferrer" in attrs["rel"])
        assert "style" not in attrs or re.fullmatch(r"--a:0\.\d+", attrs["style"])
    (css,) = (text for tag, text in page.texts if tag == "style")
    assert not re.search(r"url\(|@import|expression|behavior|https?:", css)


def test_the_policy_is_the_promised_one(hostile):
    (policy,) = (meta["content"] for meta in Page(hostile).all("meta") if meta.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert hostile.index("Content-Security-Policy") < hostile.index("<style>") < hostile.index("<body>")


def test_the_page_is_utf8_and_holds_no_control_or_bidi_character(hostile):
    hostile.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", hostile)


@pytest.mark.parametrize("name", [n for n in HOSTILE if n], ids=range(len(HOSTILE) - 1))
def test_a_hostile_name_can_be_read(hostile, name):
    assert safe(name) in Page(hostile).text("bdi")


def test_templates_in_names_are_not_evaluated(hostile):
    assert "{{7*7}}" in Page(hostile).text("bdi")


def test_a_link_is_a_plain_web_address_or_nothing():
    def links(url):
        manifest = sample.manifest(["a"])
        manifest["data"]["source_url"] = url
        return [a["href"] for a in Page(html(manifest)).all("a")]

    assert links("https://example.org/x?y=1") == ["https://example.org/x?y=1"]
    for url in ("javascript:alert(1)", "data:text/html,x", "https://a b", 'https://a"onclick=1', "https://a\u202e", "file:///etc/passwd", " https://a"):
        assert links(url) == []


# -- what it says ------------------------------------------------------------------------------------------------------


def lead(page: str) -> str:
    return re.search(r'<p class="lead">(.*?)</p>', page, re.S)[1]


@pytest.mark.parametrize("verdict", ["PASS", "USE-CORESET", "FAIL"])
def test_the_verdict_is_one_sentence_with_its_numbers(verdict):
    evaluation = sample.evaluation(["a", "b"], verdict)
    page = html(sample.manifest(["a", "b"]), [], evaluation)
    sentence = lead(page)
    assert re.search(rf'<p class="badge \w+">{verdict}</p>', page)
    assert sentence.endswith(".") and not re.search(r"\.\s", sentence)
    arms = ("distilled", "random", "full") if verdict == "FAIL" else ("distilled", "random", "coreset", "full")
    for arm in arms:
        assert f"{100 * evaluation['arms'][arm]['accuracy']['mean']:.1f}%" in sentence
    low, high = evaluation["arms"]["distilled"]["accuracy"]["ci95"]
    assert f"95% interval {100 * low:.1f} to {100 * high:.1f}%" in sentence
    assert f"these {evaluation['budget']['items']} items" in sentence


def test_a_coreset_that_is_merely_not_worse_is_not_called_better():
    evaluation = sample.evaluation(["a"], "USE-CORESET")
    evaluation["arms"]["coreset"]["accuracy"]["mean"] = evaluation["arms"]["distilled"]["accuracy"]["mean"] - 0.01
    assert "not clearly more than" in lead(html(sample.manifest(["a"]), [], evaluation))


def test_without_an_evaluation_it_says_how_to_get_one():
    page = html(sample.manifest(["a"]), [])
    assert "Not evaluated yet: run <code>datadistill evaluate DIR --data SOURCE</code>" in " ".join(lead(page).split())
    assert 'id="accuracy"' not in page and 'id="recall"' not in page


def test_a_verdict_on_another_set_or_other_data_is_called_so():
    def doubts(**changes):
        return re.findall(r'<p class="note doubt">(.*?)</p>', html(sample.manifest(["a"]), [], sample.evaluation(["a"], **changes)))

    assert doubts() == []
    assert "another version" in doubts(artifact="0" * 64)[0]
    assert "other data" in doubts(data={"source": "elsewhere", "same_as_distilled": False})[0]
    assert doubts(notes=["fewer seeds"]) == ["fewer seeds"]


def test_data_and_split_found_are_told():
    section = Page(html(sample.manifest(["a", "b"]))).text()
    for piece in ("found: train; made from it, stratified: test 20%, val 10%; seed 0", "1; a/b.png, truncated", "8 × 8 × 1", "L: 1797"):
        assert piece in section


def test_every_arm_is_drawn_at_its_mean_between_its_ends_and_with_its_runs():
    evaluation = sample.evaluation(["a"])
    svgs = re.findall(r'<svg class="track" role="img" aria-label="([^"]*)">(.*?)</svg>', html(sample.manifest(["a"]), [], evaluation), re.S)
    assert [label.split(":")[0] for label, _ in svgs] == ["This set", "Random real items", "Best coreset", "Full data", "Full data, equal steps"]
    points = []
    for (_, svg), arm in zip(svgs, evaluation["arms"].values(), strict=True):
        score = arm["accuracy"]
        points.append((score["mean"], float(re.search(r'cx="([\d.]+)%"', svg)[1])))
        ends = re.search(r'class="whisker" x1="([\d.]+)%" x2="([\d.]+)%"', svg)
        points += zip(score["ci95"], map(float, ends.groups()), strict=True)
        points += zip(score["runs"], map(float, re.findall(r'class="run" x1="([\d.]+)%"', svg)), strict=True)
    (v0, x0), (v1, x1) = min(points), max(points)
    for value, x in points:  # one straight scale for all
        assert x == pytest.approx(x0 + (value - v0) / (v1 - v0) * (x1 - x0), abs=0.02)


@pytest.mark.parametrize("n", [2, 200])
def test_recall_has_every_class_once_and_its_number(n):
    classes = [f"class {k}" for k in range(n)]
    evaluation = sample.evaluation(classes)
    section = html(sample.manifest(classes), [], evaluation).split('id="recall"')[1].split("</section>")[0]
    rows = re.findall(r'<tr><th scope="row"><bdi>(.*?)</bdi></th>(.*?)</tr>', section)
    assert Counter(name for name, _ in rows) == Counter(classes)
    for name, cells in rows:
        assert re.findall(r">(\d+)</td>", cells) == [f"{100 * arm['recall'][name]:.0f}" for arm in evaluation["arms"].values()]
    if n > 30:
        own = [evaluation["arms"]["distilled"]["recall"][name] for name, _ in rows]
        assert own == sorted(own) and "<details>" in section


def test_the_gallery_is_capped_shows_every_class_and_says_so():
    classes = [f"c{k}" for k in range(30)]
    items = sample.rows(classes, per_class=20, columns=("x",))
    page = html(sample.manifest(classes, per_class=20), items)
    section = page.split('id="gallery"')[1].split("</section>")[0]
    labels = re.findall(r'<th scope="row">set</th><td><bdi>(c\d+)</bdi>', section)
    assert len(labels) == 100 and set(labels) == set(classes)
    assert "100 of 600 items are shown" in section


def test_pictures_come_through_byte_for_byte_beside_their_neighbours():
    items = sample.pictures(["a", "b"], per_class=2)
    found = [base64.b64decode(img["src"].split(",")[1]) for img in Page(html(sample.manifest(["a", "b"], per_class=2), items)).all("img")]
    assert found == [png for item in items for png in (item.preview.png, item.neighbour.png)]


@pytest.mark.parametrize("side", [1, 5, 8, 28, 32, 64])
def test_small_pictures_grow_by_a_whole_factor_and_stay_crisp(side):
    (img, _) = Page(html(sample.manifest(["a"]), sample.pictures(["a"], 1, side))).all("img")
    assert int(img["width"]) % side == 0 and 36 < int(img["width"]) <= 72 and img["class"] == "crisp"


def test_large_pictures_shrink_to_fit():
    (img, _) = Page(html(sample.manifest(["a"]), sample.pictures(["a"], 1, 100))).all("img")
    assert img["width"] == img["height"] == "72" and "class" not in img


def test_real_items_are_called_real():
    warning = "This set contains real items, unchanged."
    assert warning in html(sample.manifest(["a"], contains_originals=True))
    assert warning not in html(sample.manifest(["a"], contains_originals=False))


def test_a_selection_has_no_loss_curve_and_says_so():
    page = html(sample.manifest(["a"], selection=True))
    assert "<path" not in page and "the method chose items and followed no loss" in page


@pytest.mark.parametrize(
    ("cost", "sentence"),
    [
        ({"break_even_trainings": 5.1}, "after 6 trainings of a student"),
        ({"break_even_trainings": 0}, "after 1 training of a student"),
        ({"break_even_trainings": None, "student": {"seconds": 9.0}, "full": {"seconds": 8.0}}, "never pays for itself in time, because training a student on it takes no less"),
        ({"break_even_trainings": None, "student": {}, "full": {}}, "is not known"),
    ],
)
def test_break_even_in_a_sentence(cost, sentence):
    evaluation = sample.evaluation(["a"])
    evaluation["cost"] |= cost
    assert sentence in html(sample.manifest(["a"]), [], evaluation)


def test_code_to_load_the_set_stands_there_to_the_letter():
    page = Page(html(sample.manifest(["a"]), [], sample.evaluation(["a"]), loading=sample.LOADING))
    assert page.text("code") == "".join(code + "\n" for code in sample.LOADING.values())


def test_provenance_is_complete():
    manifest = sample.manifest(["a"], notes=["resumed at step 3 of 9"])
    text = Page(html(manifest, [], sample.evaluation(["a"]))).text()
    wanted = [manifest["sha256"], manifest["data"]["fingerprint"], manifest["data"]["license"], manifest["data"]["source_url"], manifest["method"]["paper"], "resumed at step 3 of 9"]
    wanted += [*manifest["method"]["hyperparameters"], *manifest["packages"], *manifest["packages"].values(), *(f["sha256"] for f in manifest["files"].values())]
    for piece in wanted:
        assert piece in text


def without(data, path):
    data = copy.deepcopy(data)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    return data, inner


def paths(data, path=()):
    if isinstance(data, dict):
        for key, value in data.items():
            yield (*path, key)
            yield from paths(value, (*path, key))


def test_any_key_may_be_missing_or_null():
    manifest, evaluation, items = sample.manifest(["a", "b"], per_class=1), sample.evaluation(["a", "b"]), sample.rows(["a"], 1)
    manifest["curve"] = manifest["curve"][:5]
    for path in paths(manifest):
        changed, inner = without(manifest, path)
        inner[path[-1]] = None
        html(changed, items, evaluation)
        del inner[path[-1]]
        html(changed, items, None)
    for path in paths(evaluation):
        changed, inner = without(evaluation, path)
        inner[path[-1]] = None
        html(manifest, items, changed)
        del inner[path[-1]]
        html(manifest, items, changed)
    for almost_nothing in ({}, {"verdict": "PASS"}, {"verdict": "FAIL", "arms": {}}):
        Page(html({}, [], almost_nothing))
    Page(html({}, [Item("a", Preview(), None, None, None)]))


def test_numbers_that_json_calls_nan_are_shown_as_unknown():
    evaluation = sample.evaluation(["a"])
    evaluation["arms"]["random"]["accuracy"] = {"mean": float("nan"), "ci95": [float("nan"), float("inf")], "runs": [float("nan")]}
    manifest = sample.manifest(["a"], curve=[{"step": k, "loss": float("nan") if k % 2 else 1.0 + k} for k in range(9)])
    assert not re.search(r"\b(nan|inf)\b", html(manifest, [], evaluation))


def test_the_same_input_gives_the_same_page():
    assert poisoned(HOSTILE) == poisoned(HOSTILE)
