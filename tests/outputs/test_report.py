import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.errors import ConfigError
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.cautions import UNLIKE
from triplex_deploy.outputs.report import render_report, write_report


def data_of(html: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_report_holds_every_gene_and_spot(prediction: Prediction, tmp_path: Path) -> None:
    write_report(prediction, tmp_path / "a.html")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
    html = (tmp_path / "a.html").read_text(encoding="utf-8")
    data = data_of(html)
    assert data["genes"]["names"] == ["GNAS", "FASN", "ERBB2"]
    assert data["genes"]["moran"][2] is None  # constant
    found = re.search(r'id="codes">([^<]*)<', html)
    assert found
    codes = np.frombuffer(base64.b64decode(found[1]), "<u2").reshape(3, 30)
    low, high = np.array(data["genes"]["low"]), np.array(data["genes"]["high"])
    values = low[:, None] + codes / 65534 * (high - low)[:, None]
    np.testing.assert_allclose(values.T, prediction.expression, atol=1e-4)
    xy = np.frombuffer(base64.b64decode(data["spots"]["xy"]), "<f4").reshape(30, 2)
    np.testing.assert_allclose(xy, prediction.level0_xy)


def test_the_report_refers_to_nothing_outside_itself(prediction: Prediction) -> None:
    html = render_report(prediction)
    links = re.findall(r'(?:src|href)="([^"]{0,20})', html)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "@import" not in html
    assert "url(" not in html
    outside = set(re.findall(r"https?://[^\s\"']+", html)) - {"http://www.w3.org/2000/svg"}
    assert outside == set()


def test_text_from_files_is_escaped(prediction: Prediction) -> None:
    attack = "</script><script>alert(1)</script>"
    genes = (attack, '"><img src=x onerror=alert(1)>', "A&B")
    html = render_report(replace(prediction, slide_name="<b>name<b>", genes=genes))
    assert attack not in html
    assert "<img src=x" not in html
    assert "<b>name<b>" not in html
    assert "<b>µm</b>" not in html  # a run fact
    assert "&lt;b&gt;µm&lt;/b&gt;" in html
    assert data_of(html)["genes"]["names"] == list(genes)


def test_genes_can_be_chosen(prediction: Prediction, tmp_path: Path) -> None:
    write_report(prediction, tmp_path / "a.html", genes=["FASN"])
    html = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert data_of(html)["genes"]["names"] == ["FASN"]
    with pytest.raises(ConfigError, match="NOPE"):
        write_report(prediction, tmp_path / "b.html", genes=["NOPE"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_the_strongest_pattern_comes_first(prediction: Prediction) -> None:
    genes = re.findall(r'data-gene="(\w+)"', render_report(prediction))
    assert genes == ["GNAS", "FASN"]


def test_noise_is_not_ranked_as_a_pattern(prediction: Prediction) -> None:
    noise = np.random.default_rng(1).permuted(prediction.expression, axis=0)
    genes = re.findall(r'data-gene="(\w+)"', render_report(replace(prediction, expression=noise)))
    assert "ERBB2" not in genes
    assert len(genes) < 2


def test_a_large_report_stays_small(large_prediction: Prediction) -> None:
    assert len(render_report(large_prediction).encode()) < 15e6


def test_one_spot_and_missing_values_are_no_error(prediction: Prediction) -> None:
    one = replace(
        prediction,
        expression=np.array([[1, np.nan, 0]], np.float32),
        level0_xy=prediction.level0_xy[:1],
        grid_rc=prediction.grid_rc[:1],
    )
    assert "No gene shows a pattern over adjacent spots" in render_report(one)


def test_an_absent_folder_is_made(prediction: Prediction, tmp_path: Path) -> None:
    write_report(prediction, tmp_path / "absent" / "a.html")
    assert (tmp_path / "absent" / "a.html").stat().st_size > 1000


def test_the_report_shows_the_tissue_and_what_the_bundle_warns_of(prediction: Prediction) -> None:
    plain = render_report(prediction)
    assert "Tissue found" not in plain
    assert 'role="note"' not in plain
    overlay = np.full((1500, 900, 3), 200, np.uint8)
    run = {**prediction.run, "bundle_note": "Untrained <demo> weights"}
    html = render_report(replace(prediction, tissue_overlay=overlay, run=run))
    assert "Tissue found" in html
    assert "Untrained &lt;demo&gt; weights" in html


def test_the_report_says_that_the_slide_is_unlike_the_training_tissue(
    prediction: Prediction,
) -> None:
    def page(**run: object) -> str:
        return render_report(replace(prediction, run={**prediction.run, **run}))

    html = page(tissue=UNLIKE, unfamiliar_spots=0.7, bundle_note="Demo")
    assert html.count('role="note"') == 2
    assert (
        "(70% of the spots are further from it than 99% of the training tiles): do not rely" in html
    )
    assert "trained on: do not rely" in page(tissue=UNLIKE, unfamiliar_spots="<b>")
    assert "brightfield (it is &lt;dark&gt;): do not rely" in page(hardly_he="it is <dark>")
    assert 'role="note"' not in page(tissue="like the training tissue", unfamiliar_spots=0.0)
