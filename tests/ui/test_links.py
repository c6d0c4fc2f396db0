"""A variant travels in a link: written, read, checked against the method, restored in the request."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from vitdemo.options.explain import ExplainRequest
from vitdemo.options.methods import METHODS
from vitdemo.ui.choices import variant_choices
from vitdemo.ui.link_check import understood
from vitdemo.ui.links import explain_link, parse_link


@pytest.mark.parametrize(("method", "variant"), [("rollout", "vit-explain"), ("legrad", "all-layers")])
def test_a_links_variant_is_the_requests(method: str, variant: str) -> None:
    query = explain_link("vit-mini", ExplainRequest(method, variant=variant), None, "cup")
    assert f"variant={variant}" in urlencode(query)
    link, ignored = understood(parse_link(query), query, ["vit-mini"], "vit-mini")
    assert (link.variant, ignored) == (variant, [])
    assert variant_choices(method, link.variant)["value"] == variant


@pytest.mark.parametrize("method", ["", "relevance", "rollout"])
def test_a_variant_of_another_method_is_named_and_ignored(method: str) -> None:
    query = {"tab": "explain", "method": method, "variant": "all-layers"}
    link, ignored = understood(parse_link(query), query, ["vit-mini"], "vit-mini")
    assert (link.variant, ignored) == ("", ["variant=all-layers"])


def test_the_list_of_variants_is_shown_for_methods_that_have_them() -> None:
    assert [name for name in METHODS if variant_choices(name)["visible"]] == ["rollout", "legrad"]
    # The default is empty, as in links; what another method had chosen is not kept.
    assert variant_choices("rollout", "all-layers")["value"] == ""


@pytest.mark.parametrize("tab", ["compare", "explain"])
def test_boxes_travel_in_a_link(tab: str) -> None:
    query = {"tab": tab, "box": "0.3,0.25,0.45,0.55;0,0.5,0.2,0.5"}
    link, ignored = understood(parse_link(query), query, ["vit-mini"], "vit-mini")
    assert ignored == []
    assert link.start["boxes"] == ((0.3, 0.25, 0.45, 0.55), (0, 0.5, 0.2, 0.5))


@pytest.mark.parametrize(
    "box", ["left", "0.1,0.2,0.3", "0.1,0.2,0,0.3", "-0.1,0,0.5,0.5", "0.8,0,0.5,0.5", "0,0,nan,1", ";"]
)
def test_a_box_that_is_none_or_leaves_the_photo_is_named_and_ignored(box: str) -> None:
    query = {"tab": "compare", "box": box}
    link, ignored = understood(parse_link(query), query, ["vit-mini"], "vit-mini")
    assert (link.boxes, ignored) == ((), [f"box={box}"])
