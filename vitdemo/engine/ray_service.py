"""The model service as an application of Ray Serve, and a cluster of one machine for it."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from vitdemo.cluster.addresses import LOOPBACK, Cluster, forget, named, prepare_ray, quiet, remember, require_ray
from vitdemo.errors import OptionError, ServiceError
from vitdemo.settings import Settings, get_settings

OBJECT_STORE = 150_000_000
"""Bytes for requests and answers under way; each is some hundred kB."""
DEPLOY = 180.0
"""Seconds in which the first replicas have to run."""
NEW_LINE = "\n"


def places(settings: Settings) -> int:
    """Jobs that a replica takes at once: a batch that runs, and one that gathers."""
    return 2 * settings.max_batch


def application(settings: Settings) -> Any:
    """For `serve.run`, or a Serve config file: replicas as the settings say.

    Raises:
        ServiceError: Ray is not installed.
    """
    require_ray()
    from ray import serve
    from ray.serve.config import AutoscalingConfig, RequestRouterConfig

    from vitdemo.cluster.router import DEPLOYMENT, ByModel
    from vitdemo.engine.ray_replica import Replica

    cores = settings.ray_cpus or max(
        1.0, (os.cpu_count() or 1) // max(settings.ray_replicas, settings.ray_max_replicas)
    )
    many: dict[str, Any] = {"num_replicas": settings.ray_replicas}
    if settings.ray_max_replicas > settings.ray_replicas:
        # Below a full batch one replica does; above, the queue would only grow.
        many = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=settings.ray_replicas,
                max_replicas=settings.ray_max_replicas,
                target_ongoing_requests=settings.max_batch,
            )
        }
    whole = max(1, int(cores))
    # Both are annotated for other ways to be called.
    deploying: Any = serve.deployment
    routing: Any = RequestRouterConfig
    deployment = deploying(
        Replica,
        name=DEPLOYMENT,
        ray_actor_options={
            "num_cpus": cores,
            "num_gpus": settings.ray_gpus,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(whole), "OMP_WAIT_POLICY": "PASSIVE"}},
        },
        max_ongoing_requests=places(settings),
        max_queued_requests=settings.max_queue,
        health_check_period_s=5,
        health_check_timeout_s=20,
        graceful_shutdown_timeout_s=10,
        request_router_config=routing(request_router_class=f"{ByModel.__module__}.{ByModel.__name__}"),
        **many,
    )
    return deployment.bind(settings, places(settings), whole)


def app(arguments: dict[str, Any]) -> Any:
    """For a Serve config file, as `import_path: vitdemo.engine.ray_service:app`; its `args` are settings by their names.

    Raises:
        OptionError: there is no such setting.
    """
    known = {field.name for field in fields(Settings)}
    if unknown := sorted(set(arguments) - known):
        raise OptionError(f"There is no setting {unknown[0]!r}. Settings: {', '.join(sorted(known))}.")
    return application(replace(get_settings(), **arguments))


@contextmanager
def own_cluster(settings: Settings) -> Iterator[Cluster]:
    """A cluster of this machine, until the block ends. What joins it needs its token; traffic goes over loopback.

    Raises:
        ServiceError: Ray is not installed, or the cluster does not start.
    """
    require_ray()
    cores = max(
        os.cpu_count() or 1, math.ceil(settings.ray_cpus * max(settings.ray_replicas, settings.ray_max_replicas))
    )
    # Sockets lie in it, whose paths may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="vitdemo-ray-", dir="/tmp" if os.path.isdir("/tmp") else None))
    token = folder / "token"
    token.write_text(secrets.token_hex(32), encoding="ascii")
    prepare_ray(os.environ, Cluster(f"{LOOPBACK}:1", str(token)))
    import ray

    quiet()
    try:
        ray.init(
            "local",
            num_cpus=cores,
            object_store_memory=OBJECT_STORE,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            namespace="vitdemo",
            _node_ip_address=LOOPBACK,
            _temp_dir=str(folder),
        )
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ServiceError(
            f"A Ray cluster could not be started on this machine: {str(error).partition(NEW_LINE)[0]}"
        ) from error
    try:
        yield Cluster(ray.get_runtime_context().gcs_address, str(token), os.getpid())
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def joined_cluster(address: str) -> Iterator[Cluster]:
    """A cluster that runs already, of which this machine is a part.

    Raises:
        SettingsError, ServiceError: the address has another form; Ray is not installed, or nothing that fits answers there.
    """
    require_ray()
    cluster = named(address)
    prepare_ray(os.environ, cluster)
    import ray

    quiet()
    try:
        ray.init(address, namespace="vitdemo", log_to_driver=False, configure_logging=False)
    except Exception as error:
        raise ServiceError(
            f"The Ray cluster at {address} could not be joined: {str(error).partition(NEW_LINE)[0]}"
        ) from error
    try:
        yield cluster
    finally:
        ray.shutdown()


def deploy(settings: Settings) -> None:
    """Start the service on the cluster that was joined, and wait until its first replicas run.

    Raises:
        ServiceError: there is not enough room in the cluster, or a replica fails as it starts.
    """
    from ray import serve
    from ray.serve.exceptions import RayServeException

    from vitdemo.cluster.router import APP

    # No proxy: pages call replicas through Ray, and nothing is served over HTTP.
    serve.start(proxy_location="Disabled")
    target = serve.RunTarget(application(settings), name=APP, route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)
    until = time.monotonic() + DEPLOY
    while time.monotonic() < until:
        with contextlib.suppress(RayServeException, KeyError):
            told = serve.status().applications[APP]
            if told.status == "RUNNING":
                return
            if told.status == "DEPLOY_FAILED":
                words = " ".join(one.message for one in told.deployments.values()).strip() or told.message
                raise ServiceError(f"The replicas did not start: {words.strip().splitlines()[-1]}")
        time.sleep(0.2)
    raise ServiceError(
        f"The replicas did not start within {DEPLOY:.0f} seconds: the cluster may have too few free cores or GPUs. Ask for fewer "
        "replicas, or for less of them."
    )


def _require_room(settings: Settings) -> None:
    """Raises:
    ServiceError: the replicas ask for more GPUs than this machine has, and no other will come.
    """
    import ray

    there = ray.cluster_resources().get("GPU", 0)
    if settings.ray_gpus * settings.ray_replicas > there:
        raise ServiceError(
            f"{settings.ray_replicas} replicas with {settings.ray_gpus:g} GPUs each need more than the {there:g} that this "
            "machine has. Ask for fewer, or for less of them."
        )


def withdraw() -> None:
    """Take the service off the cluster."""
    from ray import serve

    from vitdemo.cluster.router import APP

    serve.delete(APP)


@contextmanager
def served(settings: Settings, address: str = "", keep: bool = False) -> Iterator[Cluster]:
    """The service, until the block ends: on the cluster at an address, or on one of its own.

    Args:
        keep: leave it on the cluster at the address.

    Raises:
        SettingsError, ServiceError: as above.
    """
    with joined_cluster(address) if address else own_cluster(settings) as cluster:
        if not address:
            _require_room(settings)
        deploy(settings)
        if not address:
            remember(cluster)
        try:
            yield cluster
        finally:
            if not address:
                forget(cluster)
            elif not keep:
                withdraw()
