"""How Ray Serve routes: to the replica that `Placement` named, and to any other only where that one is full or gone.

A router of Serve's own kind, rather than handles to one deployment per replica: Serve still counts what waits, so that it can
shed load and scale, asks replicas whether they take one more, and leaves out those that have died. Not `@serve.multiplexed`,
which evicts by number instead of bytes, also what is in use, and loads one model at a time (ray 2.60, `serve/multiplex.py`).

`RequestRouter` is Serve's documented extension, of alpha stability; `choose_replicas` is all that is overridden.
"""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

APP, DEPLOYMENT = "vitdemo", "models"
"""Names of the application, and of its only deployment."""

_HERE: list[ByModel] = []
"""The router of this process, once a handle was made: the last one."""


class ByModel(RequestRouter):
    def initialize_state(self, **_: Any) -> None:
        # Serve sends this class by value: its globals are copies.
        from vitdemo.cluster import router

        router._HERE[:] = [self]

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        wanted = ""
        if pending_request is not None:
            wanted = str(pending_request.kwargs.get("replica", ""))
            # Where all are full: otherwise they would be asked again without a pause.
            pending_request.routing_context.should_backoff = True
        first = [one for one in candidate_replicas if one.replica_id.unique_id == wanted]
        return [first, [one for one in candidate_replicas if one.replica_id.unique_id != wanted]]


def replicas_here() -> list[str]:
    """Ids of the replicas that run, as far as this process knows."""
    return [one.unique_id for router in _HERE for one in list(router.curr_replicas)]
