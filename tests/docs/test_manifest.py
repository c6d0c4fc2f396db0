"""The Kubernetes manifest of docs/scale.md: what it names exists, and its parts agree."""

from __future__ import annotations

import importlib
import re
from dataclasses import fields
from typing import Any

import pytest
import yaml

from tests.docs.examples import examples
from vitdemo.settings import ROOT, VERSION, Settings


@pytest.fixture(scope="module")
def manifest() -> Any:
    (found,) = (example.code for example in examples() if example.language == "yaml" and "RayService" in example.code)
    return yaml.safe_load(found)


def containers(manifest: Any) -> list[Any]:
    cluster = manifest["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [one for group in groups for one in group["template"]["spec"]["containers"]]


def test_it_is_a_service_of_the_tested_ray_and_this_version(manifest: Any) -> None:
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayService")
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert manifest["spec"]["rayClusterConfig"]["rayVersion"] == pinned[1]
    assert {one["image"].rpartition(":")[2] for one in containers(manifest)} == {VERSION}


def test_its_application_is_the_one_that_pages_look_for_with_settings_that_exist(manifest: Any) -> None:
    config = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    assert config["proxy_location"] == "Disabled"
    (application,) = config["applications"]
    source = (ROOT / "vitdemo" / "cluster" / "router.py").read_text(encoding="utf-8")
    assert f'APP, DEPLOYMENT = "{application["name"]}", ' in source
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert {*application["args"]} <= {field.name for field in fields(Settings)}


def test_its_replicas_fit_into_its_workers(manifest: Any) -> None:
    (application,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    asked, (workers,) = application["args"], manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (worker,) = workers["template"]["spec"]["containers"]
    assert float(worker["resources"]["limits"]["nvidia.com/gpu"]) >= asked["ray_gpus"]
    assert float(worker["resources"]["requests"]["cpu"]) >= asked["ray_cpus"]
    assert (workers["minReplicas"], workers["maxReplicas"]) == (asked["ray_replicas"], asked["ray_max_replicas"])


def test_its_page_uses_the_service_and_variables_that_exist(manifest: Any) -> None:
    (page,) = (one for one in containers(manifest) if one["name"] == "page")
    given = {one["name"]: one["value"] for one in page["env"]}
    known = {f"VITDEMO_{field.name.upper()}" for field in fields(Settings)} | {"GRADIO_SERVER_NAME"}
    assert given["VITDEMO_BACKEND"] == "ray"
    assert {*given} <= known
    head = next(one for one in containers(manifest) if one["name"] == "ray-head")
    assert head["volumeMounts"] == page["volumeMounts"]
