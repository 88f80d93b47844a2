"""What the client tests stand on: a throw-away Postgres with the chat example, and the walcast binary."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import psycopg
from realtime import AsyncRealtimeClient

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
WALCAST = os.environ.get("WALCAST_BIN", str(TARGET / "debug/walcast"))
POSTGRES = str(TARGET / "debug/examples/throwaway_postgres")
JWT_SECRET = "a-secret-for-the-tests-with-at-least-32-characters"

# How long anything expected may take; generous, because it is only waited for when a test fails.
PATIENCE = 20


def sign(**claims):
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    now = int(time.time())
    body = part({"alg": "HS256", "typ": "JWT"}) + b"." + part({"iat": now, "exp": now + 3600} | claims)
    mac = hmac.new(JWT_SECRET.encode(), body, hashlib.sha256).digest()
    return (body + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


def user(sub):
    return sign(role="authenticated", aud="authenticated", sub=sub)


class Stack:
    """Started once for all tests of a run."""

    def __init__(self):
        self.postgres = subprocess.Popen([POSTGRES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.database_url = self.postgres.stdout.readline().strip()
        setup = [WALCAST, "setup", "--database-url", self.database_url, "--with-auth"]
        subprocess.run(setup, check=True, capture_output=True, text=True)
        self.connection = psycopg.connect(self.database_url, autocommit=True)
        self.sql((ROOT / "sql/examples/chat.sql").read_text())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = tempfile.TemporaryFile("w+")
        self.walcast = subprocess.Popen(
            [WALCAST, "serve", "--database-url", self.database_url, "--jwt-secret", JWT_SECRET]
            + ["--listen", f"127.0.0.1:{self.port}", "--slot", "walcast_py"],
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self._wait_until_ready()

    def _wait_until_ready(self):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.walcast.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready"):
                    return
            except OSError:
                time.sleep(0.025)
        self.log.seek(0)
        raise AssertionError(f"walcast did not become ready:\n{self.log.read()}")

    def sql(self, text, *values):
        return self.connection.execute(text, values or None)

    def client(self, token=None):
        """Of somebody with this token, else anonymous. Behind the gateway's path, as supabase-py builds it."""
        return AsyncRealtimeClient(f"ws://127.0.0.1:{self.port}/realtime/v1", token or sign(role="anon"))

    def stop(self):
        self.walcast.terminate()
        self.walcast.wait()
        self.log.close()
        self.connection.close()
        self.postgres.stdin.close()
        self.postgres.wait()
        self.postgres.stdout.close()


class Complaints(logging.Handler):
    """Frames that the client could not decode: it logs and drops them."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


class Inbox:
    """What arrived and was not yet asked for, in order."""

    def __init__(self):
        self.queue = asyncio.Queue()

    def push(self, *item):
        self.queue.put_nowait(item[0] if len(item) == 1 else item)

    async def next(self):
        return await asyncio.wait_for(self.queue.get(), PATIENCE)

    async def find(self, wanted):
        while not wanted(item := await self.next()):
            pass
        return item
