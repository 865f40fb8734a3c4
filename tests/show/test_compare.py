"""The drawing of a comparison: within 80 columns whatever the numbers are, and nothing left out in silence."""

from typing import Any

import pytest
from rich.cells import cell_len

from cutaway.show.compare import OUTLIERS, draw_comparison
from cutaway.show.layout import plain


def data(error: float = 0.01, cosine: float = 0.99995, mode: str = "llm-int8-pooled", **over: Any) -> dict[str, Any]:
    apart = {"relative_error": error, "cosine": cosine}
    parts = {"exit": "resid_post", "attn_out": "attn_out", "mlp_out": "mlp_out"}
    blocks = [{"block": i} | {part: f"blocks.{i}.{site}" for part, site in parts.items()} for i in range(48)]
    sites = {row[part]: apart for row in blocks for part in parts} | {"logits": apart}
    token = {"id": 1, "text": "an_incredibly_long_piece_of_text", "prob": 1.0}
    groups = 2048 if mode == "int8" else 1
    output = {
        "row": 3071, "rows": 3072, "mode": mode, "weight": {"codes": [-127] * 24, "scales": [1.23456e-7] * groups},
        "activation": {"codes": [-127 if groups == 1 else -32767] * 24, "scales": [123456.0] * groups},
        "outlier_columns": list(range(10000, 10020)) if groups == 1 else [],
        "products": [-123456789] * groups,
        "inlier": -1.2345e-10, "outlier": -1.2345e-10, "bias": -1.2345e-10, "value": -1.2e-10,
    }  # fmt: skip
    outlier = {"layer": "blocks.47.mlp.down", "site": "", "columns": [10000] * 9000, "tokens": 9999, "of": 10000}
    made = {
        "model": "tiny", "dtype": "float32", "mode": mode, "blocks": blocks, "sites": sites,
        "outliers": {"threshold": 6.0, "of": 200, "layers": [outlier] * 30},
        "layer": {
            "name": "blocks.47.mlp.down", "site": "blocks.47.mlp.post", "at": token["text"], "output": output,
            "error": 12.5, "outlier_share": 1.25, "bytes": 10**9,
            "bytes_saved": {"float32": 10**9, "float16": -(10**8)},
        },
        "next": {
            "kl": [[0.5, 123456.0], [0.1]], "agree": [[True, False], [True]],
            "mean_kl": 41152.2, "top1_agreement": 2 / 3,
            "last": [{"at": token["text"], "full": [token] * 5, "int8": [token | {"id": 2}] * 5}] * 2,
        },
        "bytes": {"full": 4 * 10**9, "int8": 10**9, "checkpoint": 2 * 10**9},
    }  # fmt: skip
    return made | over


def drawn(of: dict[str, Any]) -> str:
    page = plain(draw_comparison(of))
    assert all(cell_len(line) <= 80 for line in page.splitlines()), max(page.splitlines(), key=cell_len)
    return page


@pytest.mark.parametrize(
    ("error", "cosine"), [(0.0, 1.0), (1e-9, -1.0), (9.99, 0.5), (123456.7, 0.0), (float("inf"), float("nan"))]
)
def test_no_line_is_wider_than_80_columns(error: float, cosine: float):
    drawn(data(error, cosine))
    drawn(data(error, cosine, "int8"))
    drawn(data(float("nan"), float("nan")))


def test_what_is_not_listed_is_counted():
    assert f"… and {30 - OUTLIERS} more of 200 layers" in drawn(data())
    assert "(10000, 10000, 10000, …)" in drawn(data()) and "and 15 more" in drawn(data())
    none = drawn(data(outliers={"threshold": 6.0, "of": 200, "layers": []}))
    assert "none in any of the 200 layers" in none


def test_the_numbers_are_those_of_the_data():
    page = drawn(data())
    for part in ("1.000 %", "0.999950", "41152.200000 nats on average, 123456.000000 at most", "66.7 % of 3 positions",
                 "1.0 GB in llm-int8-pooled; in float32 4.0 GB: 3.0 GB less (75.0 %)",
                 "the checkpoint's files 2.0 GB: 1.0 GB less (50.0 %)",
                 "the weight takes 1.0 GB; 2.0 GB in float32, 900.0 MB in float16", "error 1250.000 %",
                 "outliers' share 125.00 %", "Σ code·code -123,456,789 · 1.235e-07 · 1.235e+05 / 127²"):  # fmt: skip
        assert part in page, part
    page = drawn(data(mode="int8"))
    for part in ("a value is its code · scale, of each 32 columns", "scale 1.235e-07 of 2048", "-32767",
                 "1.0 GB in int8; in float32", "Σ code·code -123,456,789 · 1.235e-07 · 1.235e+05",
                 "+ 2047 more groups"):  # fmt: skip
        assert part in page, part
    assert "share" not in page
