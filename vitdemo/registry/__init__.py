"""The known models: embedded, official on the Hub, and any other on disk. Never imports torch."""

from vitdemo.registry.checkpoints import PROBE_FILE, count_parameters, read_json, spec_from_folder, write_json
from vitdemo.registry.configs import ARCHITECTURES, FAMILIES, processor_from_config
from vitdemo.registry.download import Progress, download, obtain
from vitdemo.registry.hub_cache import is_hub_name, remove, remove_damaged
from vitdemo.registry.lookup import (
    add_folder,
    available_models,
    default_models,
    embedded_models,
    find_spec,
    forget_folder,
    get_spec,
    ready_models,
    reconstructing_model,
    segmenting_model,
)
from vitdemo.registry.official import OFFICIAL
from vitdemo.registry.progress_bar import console_progress

__all__ = [
    "ARCHITECTURES",
    "FAMILIES",
    "OFFICIAL",
    "PROBE_FILE",
    "Progress",
    "add_folder",
    "available_models",
    "console_progress",
    "count_parameters",
    "default_models",
    "download",
    "embedded_models",
    "find_spec",
    "forget_folder",
    "get_spec",
    "is_hub_name",
    "obtain",
    "processor_from_config",
    "read_json",
    "ready_models",
    "reconstructing_model",
    "remove",
    "remove_damaged",
    "segmenting_model",
    "spec_from_folder",
    "write_json",
]
