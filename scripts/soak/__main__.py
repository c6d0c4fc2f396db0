"""`python -m scripts.soak [--users N] [--minutes M] [--backend local|ray]`: exit status 1 if a bar is not met."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

import httpx

from scripts.soak.page import Site
from scripts.soak.photos import Photos
from scripts.soak.report import Soaked, odd, table
from scripts.soak.server import Server, serving
from scripts.soak.users import Run, User


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts.soak", description="Many users at once against a server of its own.")
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--backend", choices=("local", "ray"), default="local", help="what runs the server's models")
    options = parser.parse_args()
    print("Computing the answers alone...", file=sys.stderr, flush=True)
    photos = Photos.computed()
    print(f"{len(photos.known)} photos. Starting the server...", file=sys.stderr, flush=True)
    with serving(options.backend) as server:
        seen = asyncio.run(soak(server, photos, options.users, options.minutes * 60))
        if len(seen.log.splitlines()) > 3:
            print(f"The server wrote:\n{seen.log[-4000:]}", file=sys.stderr)
    print(f"Backend: {options.backend}. {table(seen)}")
    for line in odd(seen.done):
        print(f"- {line}", file=sys.stderr)
    for failure in seen.failures():
        print(f"Not met: {failure}.", file=sys.stderr)
    return 1 if seen.failures() else 0


async def soak(server: Server, photos: Photos, users: int, seconds: float) -> Soaked:
    """Let users work for so long, then tell the server to end while they do."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        run = Run(server.url, photos, await Site.read(client))
    start = time.monotonic()
    living = [asyncio.create_task(User(run, number).live()) for number in range(users)]
    reporter = asyncio.create_task(_progress(run, start, server))
    await asyncio.wait(living, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for one in living:
        if one.done():
            one.result()
    files = len(server.files())
    run.stopping, stopped = True, time.monotonic()
    took = await asyncio.to_thread(server.end)
    left = len(server.files())
    await asyncio.wait_for(asyncio.gather(*living), 150)
    reporter.cancel()
    return Soaked(
        users,
        start,
        stopped,
        run.done,
        server.memory,
        took,
        server.process.returncode,
        files,
        left,
        server.said(),
    )


async def _progress(run: Run, start: float, server: Server) -> None:
    told = 0
    while True:
        await asyncio.sleep(30)
        for line in odd(run.done[told:]):
            print(f"- {line}", file=sys.stderr)
        told = len(run.done)
        bad = sum(one.outcome not in ("right", "gone") for one in run.done)
        memory = server.memory[-1][1] if server.memory else 0
        print(
            f"{time.monotonic() - start:.0f} s: {len(run.done)} done, {bad} not right, {memory:.0f} MB, "
            f"{len(server.files())} files",
            file=sys.stderr,
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
