"""The report as files: whole, self-contained, safe, the same in HTML and in Markdown."""

import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import pytest

from merge_lib.report import build_report, save_figures
from merge_lib.report.render import escape_markdown, fence, prose_as_html, prose_as_markdown
from merge_lib.report.sections import compose
from merge_lib.results import StudyResults

VOID = {"meta", "link", "br", "img", "hr", "input"}
HOSTILE = ["<script>alert(1)</script>", 'a"b|c`d*e_f', "]]>--><svg onload=x>", "new\nline & <b>", "ü 数字"]


class Page(HTMLParser):
    """Collects tags, attributes, text and tables, and checks that tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.tables, self.cell = {}, None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th", "caption"):
            self.cell = ""

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "caption":
            self.tables[self.cell] = self.rows
        if tag in ("td", "th"):
            self.rows[-1].append(self.cell)
        if tag in ("td", "th", "caption"):
            self.cell = None

    def handle_data(self, data):
        self.text.append(data)
        if self.cell is not None:
            self.cell += data


def read(results, folder):
    files = build_report(results, folder)
    return Page(files.html.read_text("utf-8")), files.markdown.read_text("utf-8"), files


def markdown_tables(text):
    """Rows of cells of every Markdown table, by the heading above it."""
    tables, heading = {}, None
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|") and not set(line) <= set("|-: "):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            tables.setdefault(heading, []).append(cells)
    return tables


@pytest.fixture(scope="module")
def built(results, tmp_path_factory):
    return read(results, tmp_path_factory.mktemp("report"))


def test_html_is_whole_and_below_two_megabytes(built):
    page, _, files = built
    assert page.tags[0] == "html"
    assert files.html.stat().st_size < 2e6
    assert "".join(page.text).count("Mergeline report") == 2  # kicker and title


def test_html_refers_to_nothing_outside_itself(built):
    page, _, files = built
    text = files.html.read_text("utf-8")
    assert "script" not in page.tags
    assert not re.search(r"https?:|url\(|@import|//", text)
    for tag, name, value in page.attributes:
        if name in ("href", "src", "srcset", "data", "action", "poster", "xlink:href"):
            assert value.startswith(("#", "data:")), (tag, name, value)


def test_links_inside_the_page_have_a_target(built):
    page, _, _ = built
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for _, name, value in page.attributes if name == "href" and value[0] == "#"} <= set(ids)


def test_every_chart_has_a_text_in_its_place(built):
    page, _, _ = built
    charts = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(charts) == page.tags.count("svg") - sum(
        1 for tag, name, _ in page.attributes if (tag, name) == ("svg", "aria-hidden")
    )
    assert all(len(text) > 20 for text in charts)


def test_page_follows_light_and_dark_and_print(built):
    text = built[2].html.read_text("utf-8")
    assert "@media (prefers-color-scheme: dark)" in text
    assert "@media print" in text
    assert 'name="viewport"' in text


def test_every_row_of_the_results_is_in_it(built, results):
    page, _, _ = built
    listed = {tuple(row[:3]) for name in ("Trained", "Merged") for row in page.tables[f"{name} checkpoints"]}
    titles = {
        "base": "Base",
        "expert": "Each expert alone",
        "sequential": "Sequential fine-tuning, not merged",
        "joint": "Joint training",
    }
    for row in results.rows:
        seed = "all" if row.seed is None else str(row.seed)
        assert (titles.get(row.label, row.label), row.regime or "–", seed) in listed


def test_every_digest_is_in_it_in_full(built, results):
    text = built[2].html.read_text("utf-8")
    for digest in [ref.digest for row in results.rows for ref in row.checkpoints] + list(
        results.data.values()
    ):
        assert digest in text


def test_markdown_has_the_same_tables_as_html(built):
    page, markdown, _ = built
    printed = markdown_tables(markdown)
    assert set(page.tables) == set(printed)
    for caption, rows in page.tables.items():
        lines = printed[caption][1:]
        plain = [[unescape(re.sub(r"\*\*| ≈$|`|\\", "", cell)) for cell in line] for line in lines]
        assert plain == rows[-len(lines) :], caption


def test_markdown_figures_lie_beside_it(built):
    _, markdown, files = built
    links = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", markdown)
    assert links == [f"figures/{path.name}" for path in files.figures]
    assert all((files.markdown.parent / link).is_file() for link in links)
    assert [path.stem for path in files.figures] == [
        "overview",
        "early-tasks",
        "retention",
        "accuracy-matrices",
    ]


def test_figures_are_well_formed_svg_of_finite_numbers(built):
    for path in built[2].figures:
        text = path.read_text("utf-8")
        assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
        assert "nan" not in re.sub(r">[^<]*<", "><", text)
        assert "prefers-color-scheme: dark" in text
        assert not re.search(r"url\(|@import|href", text)


def test_how_to_reproduce_names_run_revision_and_configuration(built):
    page, markdown, _ = built
    for text in ("".join(page.text), markdown):
        assert "git checkout 0fc92b4" in text
        assert "mergeline run digits.yaml" in text
        assert "mergeline report 3f9a1c27b0d24c6e9f0a" in text
        assert '"density": 0.2' in text


def test_same_results_same_bytes(results, tmp_path):
    first, second = build_report(results, tmp_path / "a"), build_report(results, tmp_path / "b")
    assert first.html.read_bytes() == second.html.read_bytes()
    assert first.markdown.read_bytes() == second.markdown.read_bytes()


def test_results_that_were_saved_give_the_same_report(results, tmp_path):
    results.save(tmp_path / "results.json")
    loaded = StudyResults.load(tmp_path / "results.json")
    first, second = build_report(results, tmp_path / "a"), build_report(loaded, tmp_path / "b")
    assert first.html.read_bytes() == second.html.read_bytes()


def test_hostile_names_are_printed_not_obeyed(make_results, tmp_path):
    plain = make_results(tasks=HOSTILE, methods=dict.fromkeys(HOSTILE, (0.8, 0.05)))
    results = replace(
        plain,
        study="../<script>x</script>",
        description="<img src=x onerror=alert(1)>",
        config={"note": "```\n</code><script>"},
        environment={"<script>": "<script>"},
    )
    page, markdown, files = read(results, tmp_path)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "b" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert any("<script>alert(1)</script>" in text for text in page.text)
    outside_fences = re.sub(r"(?ms)^(`{3,})\w*\n.*?\n\1$", "", markdown)
    assert "<" not in outside_fences
    assert "mergeline run ..--script-x--script-.yaml" in markdown
    columns = markdown_tables(outside_fences)["References"]
    assert {len(row) for row in columns} == {4 + len(HOSTILE)}
    for path in files.figures:
        tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(path.read_text("utf-8")).iter()}
        assert tags <= {"svg", "title", "desc", "style", "rect", "text", "g", "path", "circle"}


def test_one_task_has_no_forgetting_and_says_so(make_results, tmp_path):
    page, markdown, files = read(make_results(size=1), tmp_path)
    assert [path.stem for path in files.figures] == ["overview", "accuracy-matrices"]
    rows = page.tables["Methods in each regime"][2:]
    assert all(row[5:7] == ["–", "–"] for row in rows)
    assert "There is nothing to forget with one task." in "".join(page.text)
    assert "Forgets least" not in markdown
    reasons = [v for _, name, v in page.attributes if name == "title" and v and v.startswith("undefined")]
    assert "undefined: there is only one task, or an entry it needs was not measured" in reasons


def test_one_seed_has_no_interval_and_no_best(make_results, tmp_path):
    page, markdown, _ = read(make_results(seeds=(4,)), tmp_path)
    rows = page.tables["Methods in each regime"][2:]
    assert all(re.fullmatch(r"−?\d+\.\d", cell) for row in rows for cell in row[1:])
    assert "best" not in [value for _, name, value in page.attributes if name == "class"]
    assert "one seed, no interval" in markdown
    assert markdown.count("With one seed no test is possible, so no row is told apart from another.") == 1
    assert "Not distinguishable for any of the 9 methods." in markdown
    assert "No row can be told from the best mean, so none is marked" in markdown


def test_a_study_of_one_regime_has_no_comparison_of_regimes(make_results, tmp_path):
    page, markdown, _ = read(make_results(regimes=("parallel",)), tmp_path)
    assert "Sequential minus parallel experts" not in page.tables
    assert "Sequential or parallel experts" not in markdown
    assert page.tables["Methods in each regime"][1] == ["Method", "parallel", "parallel", "parallel"]


def test_a_method_that_misses_a_regime_keeps_its_place(make_results, tmp_path):
    whole = make_results()
    rows = [row for row in whole.rows if (row.label, row.regime) != ("TIES", "parallel")]
    page, _, _ = read(replace(whole, rows=rows), tmp_path)
    ties = next(row for row in page.tables["Methods in each regime"] if row[0] == "TIES")
    assert ties[2] == ties[4] == ties[6] == "–"
    assert ties[1] != "–"
    assert "not in this study" in [value for _, name, value in page.attributes if name == "title"]


def test_a_study_without_merges_reports_its_references(make_results, tmp_path):
    whole = make_results()
    rows = [row for row in whole.rows if row.kind == "reference"]
    page, markdown, files = read(replace(whole, rows=rows), tmp_path)
    assert "This study merged nothing; only references were measured." in markdown
    assert len(page.tables["References"]) == 2 + 4
    assert files.figures == ()


def test_entries_that_were_not_measured_stay_visible(make_results, tmp_path):
    whole = make_results()
    rows = [
        replace(
            row,
            accuracy=[
                [v if k <= t else math.nan for k, v in enumerate(r)] for t, r in enumerate(row.accuracy)
            ],
            metrics={**row.metrics, "forward_transfer": math.nan},
        )
        for row in whole.rows
    ]
    page, _, _ = read(replace(whole, rows=rows), tmp_path)
    assert "after stage 1, on digits 2 and 3: not measured" in page.text
    assert {row[6] for row in page.tables["More metrics"][1:]} == {"–"}


def test_figures_can_be_saved_alone(results, tmp_path):
    figures = save_figures(results, tmp_path / "deep" / "folder")
    assert list(figures) == ["overview", "accuracy-matrices", "early-tasks", "retention"]
    assert all(path.suffix == ".svg" and path.is_file() for path in figures.values())


def test_importing_the_report_loads_nothing_heavy():
    code = (
        "import sys, merge_lib; before = set(sys.modules); import merge_lib.report; "
        "print(sorted({'matplotlib', 'jinja2', 'scipy', 'pandas'} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_markdown_escapes_what_would_be_markup():
    assert prose_as_html("is <b>: `run x_y --set a<b`.") == "is &lt;b&gt;: <code>run x_y --set a&lt;b</code>."
    assert prose_as_markdown("is x_y: `run x_y`, `z`.") == r"is x\_y: `run x_y`, `z`."
    assert escape_markdown("a|b *c* <d> `e`\n# [f](g)") == (r"a\|b \*c\* &lt;d&gt; \`e\` \# \[f\](g)")
    assert fence("a ```` b") == "`````"
    assert fence("plain") == "```"


def test_a_workload_without_scenarios_has_none_among_the_facts(results):
    facts = [name for name, _ in compose(replace(results, scenario="")).facts]
    assert "Scenario" not in facts
    assert "Workload" in facts
