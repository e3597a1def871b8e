"""transformers: the reference engine, and the one for machines without a GPU.

A prompt is read once and its keys and values are kept. All paths that a search asks about are then run as one short
sequence behind them, as a tree: each token sees the prompt and its own ancestors, so nothing of a prompt is copied
for a beam, and the output layer is evaluated on the wanted tokens' rows only. Where a model cannot be run this way
(recurrent layers, windows of its own, ...) a check at the start finds out, and the engine runs prompt and path as a
whole, one at a time.

More than 400 lines: one class, whose cache, forward pass and check at the start share one state.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from llmgen.engines import GenerationConfig, Step, Usage
from llmgen.engines.chat import ChatTokenizer, Writer
from llmgen.errors import ConfigError, EngineUnavailableError
from llmgen.models import demo_model
from llmgen.types import FloatArray, IntArray

try:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from llmgen.engines.blocks import ROOM, Block, Growth, Past, Row, growth, inputs
    from llmgen.engines.forward import by_transformers, short
    from llmgen.engines.own_tokens import settle_tokens
    from llmgen.engines.packed import pack
except ImportError as error:
    raise EngineUnavailableError(f"the hf engine needs torch and transformers ({error}); install llmgen[hf]") from error

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

T = TypeVar("T")

MIN_SHARED = 16  # shorter common beginnings of prompts are not worth a pass of their own
PASS_TOKENS = 8192  # tokens of keys that one forward pass works on: on a CPU more is no faster
PASS_TOKENS_CUDA = 32_768  # where each pass costs the time of some hundred launches, however much it works on
KEPT_BYTES = 1_000_000_000
MOST_NODES = 1024  # columns of paths in a block, which later nodes would look over in vain
CROWDED = 0.75  # share of a block's prompts that a pass must be about; else they get a block of their own
NARROW = 64  # up to so many wanted tokens, the rows of all steps are gathered into one product
LONGEST = ("max_position_embeddings", "max_seq_len", "max_target_positions", "n_positions", "seq_length")
WINDOWS = ("sliding_window", "keep_window_size")
FULL_CHUNK = 64  # steps a pass over the whole vocabulary: 64 x 150,000 float64 are 77 MB


class HFEngine(Writer):
    """A causal language model run by transformers, on a CPU (float32) or a GPU (bfloat16).

    Args:
        model: A causal LM, in evaluation mode or not; it is put there.
        tokenizer: Its tokenizer.
        name: For people.
        max_tokens: Longest prompt and answer together; the model's own limit by default.
        batch_tokens: Prompt tokens whose keys and values are kept at once; by default as many as take
            1 GB, on a GPU a quarter of its free memory.

    Attributes:
        model: The language model, in evaluation mode.
        chat_tokenizer: Its tokenizer and chat template.

    Raises:
        ConfigError: The tokenizer does not fit the model, or its chat template cannot be used; see `ChatTokenizer`.
        EngineUnavailableError: The model gives logits that are not finite.
    """

    constrained = True
    block_tokens = 1

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "hf",
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self.model = model.eval()
        self.name = name
        plain: Any = model
        if hasattr(model, "get_base_model"):  # a PEFT adapter is wrapped around it
            plain = plain.get_base_model()
        self._plain_model = plain
        self._body = plain.get_decoder()
        self._head = plain.get_output_embeddings()
        if self._head is None:
            raise ConfigError(
                f"{name}, a {type(plain).__name__}, has no output layer over a vocabulary; use a causal LM"
            )
        self._device = self._head.weight.device
        embeddings = (plain.get_input_embeddings(), self._head)
        self.chat_tokenizer = ChatTokenizer(tokenizer, min(one.weight.shape[0] for one in embeddings))
        self.tokenize, self.spell = self.chat_tokenizer.tokenize, self.chat_tokenizer.spell
        self.tokenizer_digest = self.chat_tokenizer.digest
        self.control_tokens = self.chat_tokenizer.control_tokens
        config = plain.config.get_text_config()
        own = getattr(plain, "generation_config", None)
        self._ends = self.chat_tokenizer.ends(getattr(config, "eos_token_id", None), getattr(own, "eos_token_id", None))
        scales = [getattr(config, field, None) for field in ("logit_scale", "logits_scaling")]
        times, over = (scale if isinstance(scale, int | float) and scale else 1 for scale in scales)  # MPT has words
        self._scale = times / over
        self._cap = getattr(config, "final_logit_softcapping", None)
        longest = (getattr(config, field, None) for field in LONGEST)
        self.max_tokens = max_tokens or int(next(filter(None, longest), 4096))
        self._tree_limit = min([self.max_tokens, *_windows(config)])
        self.batch_tokens = batch_tokens or PASS_TOKENS
        self._bytes_a_token = 0
        self._kept: OrderedDict[tuple[int, ...], Row] = OrderedDict()
        self.usage = Usage()
        self._check_causal()
        for forward in filter(None, (short(self._body), by_transformers(self._body))):
            self._forward = forward
            fault = self._fault()
            if fault is None:
                break
        self._tree_works = fault is None
        if fault is not None:
            logger.warning("%s runs each path as a whole, which is slow: %s", self.name, fault)
        elif batch_tokens is None:
            self.batch_tokens = max(PASS_TOKENS, self._room() // self._bytes_a_token)
        self.usage = Usage()  # without the check

    @classmethod
    def load(
        cls,
        model: str | None = None,
        *,
        adapter: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
        threads: int | None = None,
    ) -> HFEngine:
        """Load a model by name.

        Args:
            model: Folder or hub name of a causal LM; SmolLM2-135M-Instruct, fetched once, by default.
            adapter: Folder or hub name of a PEFT adapter for it; merged in float32, where that is exact to rounding,
                and applied beside the weights elsewhere.
            device: `cpu`, `cuda`, `cuda:1`, ...; a GPU where there is one by default.
            dtype: `float32`, `bfloat16` or `float16`; by default float32 on a CPU and bfloat16 on a GPU. CPUs that know
                bfloat16 (AVX-512 BF16, AMX) answer in two thirds of the time with it, to two digits; others are slower.
            max_tokens: See the class.
            batch_tokens: See the class.
            threads: CPU threads; torch's own choice by default.

        Raises:
            EngineUnavailableError: The model or adapter cannot be loaded here.
            ConfigError: An unknown dtype.
        """
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        precision = dtype or ("float32" if where.type == "cpu" else "bfloat16")
        if precision not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"dtype must be float32, bfloat16 or float16, not {precision!r}")
        if threads is not None:
            torch.set_num_threads(threads)
        source = str(demo_model()) if model is None else model
        disable_progress_bar()  # of reading weights from the disk; downloads keep theirs
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
            weights: Any = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, precision))
            weights.to(where)
        except Exception as error:  # a damaged file: whatever transformers, tokenizers and safetensors raise
            raise EngineUnavailableError(
                f"cannot load the model {source!r}: {error}\nName a folder with a transformers model, or a model "
                "of the hub where that can be reached."
            ) from error
        if adapter is not None:
            from peft import PeftConfig, PeftModel

            try:
                if getattr(PeftConfig.from_pretrained(adapter), "trainable_token_indices", None):
                    tokenizer = AutoTokenizer.from_pretrained(
                        adapter
                    )  # it has tokens of its own, such as codes of items
                    rows = max(len(tokenizer), weights.get_input_embeddings().weight.shape[0])
                    weights.resize_token_embeddings(rows, mean_resizing=False)
                weights = PeftModel.from_pretrained(weights, adapter)
                settle_tokens(weights)
            except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: made for a model of another size
                raise EngineUnavailableError(f"cannot load the adapter {adapter!r} for {source!r}: {error}") from error
            merges = hasattr(weights.base_model, "merge_and_unload")  # a tuned prompt has no weights to merge
            if merges and precision == "float32":
                weights = weights.merge_and_unload()
        if where.type == "cpu" and precision != "float16":
            pack(weights.eval())
        name = "hf:" + (Path(source).name if model is None or Path(source).is_dir() else source)
        name += f"+{Path(adapter).name}" if adapter else ""
        return cls(weights, tokenizer, name=name, max_tokens=max_tokens, batch_tokens=batch_tokens)

    @torch.inference_mode()
    def next_logprobs(self, steps: Sequence[Step]) -> list[FloatArray]:
        """See `Engine`. Prompts are read once; how many stay in memory is bounded by `batch_tokens`."""
        answers: list[FloatArray] = [np.empty(0)] * len(steps)
        grouped: dict[tuple[int, ...], list[int]] = {}
        same = {id(step.prompt): step.prompt for step in steps}  # hashed once a prompt, not once a step
        group = {key: grouped.setdefault(prompt, []) for key, prompt in same.items()}
        for number, step in enumerate(steps):
            group[id(step.prompt)].append(number)
        tree: dict[tuple[int, ...], list[int]] = {}
        for prompt, numbers in grouped.items():
            longest = len(prompt) + max(len(steps[number].suffix) for number in numbers)
            if self._tree_works and longest <= self._tree_limit:
                tree[prompt] = numbers
            else:
                for number in numbers:
                    answers[number] = self._plain(steps[number])
        found: list[Tensor] = []
        order: list[int] = []
        for prompts in self._chunks(sorted(tree, key=self._size)):
            block = self._gathered(prompts)
            numbers = [number for prompt in prompts for number in tree[prompt]]
            hidden = self._hidden_states(
                block, prompts, [[steps[n].suffix for n in tree[prompt]] for prompt in prompts]
            )
            self._forget(prompts)
            products, places = self._logprobs(hidden, [steps[n] for n in numbers])
            found.append(products)
            order += [numbers[place] for place in places]
        if order:  # the one time that the host waits for the device
            ends = np.cumsum([len(steps[number].wanted) for number in order])
            for number, row in zip(order, np.split(torch.cat(found).cpu().numpy(), ends[:-1]), strict=True):
                answers[number] = row
        return answers

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """What the model makes of texts: the mean of the last hidden states of each text's tokens.

        Args:
            texts: Read as they are, without a chat around them; each is cut to the model's context.

        Returns:
            float32 [len(texts), hidden size].
        """
        spelled = self.spell(texts)
        lengths = [min(len(tokens), self.max_tokens) for tokens in spelled]
        made = np.zeros((len(texts), self._head.weight.shape[1]), np.float32)
        by_length = sorted(range(len(texts)), key=lengths.__getitem__)
        for numbers in _batches(by_length, lengths.__getitem__, PASS_TOKENS):
            ids = torch.full(
                (len(numbers), max(lengths[n] for n in numbers)), self.chat_tokenizer.end, device=self._device
            )
            mask = torch.zeros_like(ids)
            for row, number in enumerate(numbers):
                ids[row, : lengths[number]] = torch.tensor(spelled[number][: lengths[number]], device=self._device)
                mask[row, : lengths[number]] = 1
            hidden = self._body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            shares = (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(-1)
            made[numbers] = (hidden.float() * shares).sum(dim=1).cpu().numpy()
        return made

    @torch.inference_mode()
    def _write(
        self, prompts: Sequence[tuple[int, ...]], config: GenerationConfig, ends: frozenset[int]
    ) -> list[tuple[list[int], bool]]:
        """See `Writer`; prompts of similar length are written together."""
        answers: dict[int, tuple[list[int], bool]] = {}
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        if self._fault_of_batches is not None:
            generator = torch.Generator(self._device).manual_seed(config.seed)
            return [self._write_plainly(prompt, config, ends, generator) for prompt in prompts]
        # `generate` draws from torch's own generator, which is put back as it was: others of this process use it too
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(config.seed)
            for numbers in _batches(by_length, lambda i: len(prompts[i]) + config.max_new_tokens, self.batch_tokens):
                written, _ = self._generated([prompts[i] for i in numbers], config, ends)
                for i, row_ids in zip(numbers, written, strict=True):
                    end = next((place for place, token in enumerate(row_ids) if token in ends), None)
                    answers[i] = (row_ids[:end], end is not None)
        return [answers[i] for i in range(len(prompts))]

    def _generated(
        self, prompts: Sequence[tuple[int, ...]], config: GenerationConfig, ends: frozenset[int], steps: bool = False
    ) -> tuple[list[list[int]], Sequence[Tensor]]:
        """What transformers' `generate` writes behind prompts, padded at the left, and its logits where `steps`."""
        settings = transformers.GenerationConfig(
            max_new_tokens=config.max_new_tokens,
            do_sample=config.temperature > 0,
            temperature=config.temperature or None,
            top_k=0 if config.temperature else None,
            eos_token_id=sorted(ends) or None,
            pad_token_id=self.chat_tokenizer.end,
            output_logits=True if steps else None,
            return_dict_in_generate=True,
        )
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), self.chat_tokenizer.end, device=self._device)
        mask = torch.zeros((len(prompts), longest), dtype=torch.long, device=self._device)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt, device=self._device)
            mask[row, longest - len(prompt) :] = 1
        with self._own_settings():
            output = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        return output.sequences[:, longest:].tolist(), output.logits or ()

    def _write_plainly(
        self, prompt: tuple[int, ...], config: GenerationConfig, ends: frozenset[int], generator: torch.Generator
    ) -> tuple[list[int], bool]:
        """The same by a whole pass a token, alone; the reference."""
        written: list[int] = []
        while len(written) < config.max_new_tokens:
            logits = self._logits((*prompt, *written))
            if config.temperature:
                shares = (logits / config.temperature).softmax(dim=-1)
                token = int(torch.multinomial(shares, 1, generator=generator))
            else:
                token = int(logits.argmax())
            if token in ends:
                return written, True
            written.append(token)
        return written, False

    @cached_property
    @torch.inference_mode()
    def _fault_of_batches(self) -> str | None:
        """Why `generate` does not write what whole passes would, several prompts together; None if it does."""
        tokens = [int(t) for t in np.random.default_rng(2).integers(0, self._head.weight.shape[0], size=12)]
        prompts = [tuple(tokens[:4]), tuple(tokens[4:])]
        try:
            written, logits = self._generated(prompts, GenerationConfig(max_new_tokens=2), frozenset(), steps=True)
        except Exception as error:  # as in `_fault`
            fault = f"{type(error).__name__}: {error}"
        else:
            slow = [
                torch.stack(
                    [self._logits((*prompt, *ids[:step])) for prompt, ids in zip(prompts, written, strict=True)]
                )
                for step in range(2)
            ]
            differences = [
                one.double().log_softmax(-1) - two.log_softmax(-1) for one, two in zip(logits, slow, strict=True)
            ]
            largest = max(float(difference.abs().max()) for difference in differences)
            if largest <= self._allowed:
                return None
            fault = f"written together their logits differ by {largest:.2g}"
        logger.warning("%s writes each text alone and by whole passes, which is slow: %s", self.name, fault)
        return fault

    @contextmanager
    def _own_settings(self) -> Iterator[None]:
        """The model without a generation configuration of its own, whose penalties and beams nobody asked for."""
        models = {id(model): model for model in (self.model, self._plain_model)}.values()
        before = [model.generation_config for model in models]
        for model in models:
            model.generation_config = transformers.GenerationConfig()
        try:
            yield
        finally:
            for model, settings in zip(models, before, strict=True):
                model.generation_config = settings

    def _room(self) -> int:
        """Bytes that what is kept may take by default: 1 GB, or a quarter of what a GPU has free where that is more."""
        if self._device.type != "cuda":
            return KEPT_BYTES
        return max(KEPT_BYTES, torch.cuda.mem_get_info(self._device)[0] // 4)

    @property
    def _pass_tokens(self) -> int:
        return min(PASS_TOKENS_CUDA if self._device.type == "cuda" else PASS_TOKENS, self.batch_tokens)

    def _size(self, prompt: tuple[int, ...]) -> int:
        row = self._kept.get(prompt)
        return len(prompt) if row is None else row.size

    def _chunks(self, prompts: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        """Prompts by passes; those that lie in one block stay together, so that blocks last from round to round."""
        known: dict[int, list[tuple[int, ...]]] = {}
        new = []
        width = {prompt: len(prompt) for prompt in prompts}
        for prompt in prompts:
            row = self._kept.get(prompt)
            if row is None:
                new.append(prompt)
            else:
                width[prompt] = row.block.used
                known.setdefault(id(row.block), []).append(prompt)
        chunk: list[tuple[int, ...]] = []
        widest = 0
        for group in (*known.values(), *_batches(new, len, self._pass_tokens)):
            widest = max(widest, *(width[prompt] for prompt in group))
            if chunk and (len(chunk) + len(group)) * widest > self._pass_tokens:
                yield chunk
                chunk, widest = [], max(width[prompt] for prompt in group)
            chunk = chunk + group
        if chunk:
            yield chunk

    def _gathered(self, prompts: Sequence[tuple[int, ...]]) -> Block:
        """The block in which the prompts lie, read where they are not kept, with few others beside them."""
        self._prefill(prompts)
        blocks = {id(self._kept[prompt].block): self._kept[prompt].block for prompt in prompts}
        block = next(iter(blocks.values()))
        if len(blocks) > 1 or len(prompts) < CROWDED * block.rows:
            block = self._regrouped(prompts)
        return block

    def _regrouped(self, prompts: Sequence[tuple[int, ...]], *, bare: bool = False) -> Block:
        """A block of some kept prompts and no others, with their trees or, `bare`, without."""
        rows = [self._kept[prompt] for prompt in prompts]
        sources: dict[int, list[Row]] = {}
        moved: dict[tuple[int, ...], Row] = {}
        used = max(row.length if bare else row.block.used for row in rows)
        block = Block(len(rows), used if bare else used + ROOM)
        for number, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
            sources.setdefault(id(row.block), []).append(row)
            moved[prompt] = Row(block, number, row.length, {(): ()} if bare else row.nodes)
        target = {id(row): number for number, row in enumerate(rows)}
        for some in sources.values():
            pairs = torch.tensor([[target[id(row)] for row in some], [row.number for row in some]], device=self._device)
            block.copy(some[0].block, pairs[0], pairs[1], min(used, some[0].block.used))
        self._kept.update(moved)
        return block

    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Read the prompts that are not kept yet, from the end of what they share with one that is."""
        for prompt in prompts:
            if prompt in self._kept:
                self._kept.move_to_end(prompt)
                self.usage.cached_tokens += len(prompt)
        missing = [prompt for prompt in prompts if prompt not in self._kept]
        if not missing:
            return
        donor = next(reversed(self._kept), None)
        shared = 0 if donor is None else min(_common(donor, prompt) for prompt in missing)
        if shared < MIN_SHARED:
            donor, shared = None, 0
        longest = max(map(len, missing))
        room = min(ROOM, max(0, self.batch_tokens // len(missing) - longest))
        block = Block(len(missing), longest + room)
        first, rest = missing[0], missing[1:]
        among = min((_common(first, prompt) for prompt in rest), default=0)
        if among >= shared + MIN_SHARED:  # as of one user's prompts about many items: the first is read for the others
            self._read([first], donor, shared, block, 0)
            self._read(rest, first, among, block, 1)
        else:
            self._read(missing, donor, shared, block, 0)
        self._forget(prompts)

    def _forget(self, wanted: Sequence[tuple[int, ...]]) -> None:
        """Keep no more than `batch_tokens`, the wanted prompts first of all, their trees only where there is room."""
        blocks = {id(row.block): row.block for row in self._kept.values()}
        total = sum(block.tokens for block in blocks.values())
        asked = {id(self._kept[prompt].block): self._kept[prompt].block for prompt in wanted}
        if total > self.batch_tokens:
            left = Counter(id(row.block) for row in self._kept.values())
            keep = set(wanted)
            for prompt in [prompt for prompt in self._kept if prompt not in keep]:
                key = id(self._kept.pop(prompt).block)
                left[key] -= 1
                if not left[key]:
                    total -= blocks[key].tokens
                    if total <= self.batch_tokens:
                        break
        longest = max(self._kept[prompt].length for prompt in wanted)
        least = longest * len(wanted)
        over = total > self.batch_tokens and sum(block.tokens for block in asked.values()) > least
        if over or any(block.used - longest > MOST_NODES for block in asked.values()):
            self._regrouped(wanted, bare=True)

    def _read(
        self,
        prompts: Sequence[tuple[int, ...]],
        donor: tuple[int, ...] | None,
        shared: int,
        block: Block,
        first: int,
    ) -> None:
        """Read prompts behind what they share with one that is kept, into the rows of a block from `first` on."""
        rest = [prompt[shared:] for prompt in prompts]
        self.usage.read_tokens += sum(map(len, rest))
        self.usage.cached_tokens += shared * len(prompts)
        count, longest = len(prompts), max(map(len, rest))
        ids = np.zeros((count, longest), np.int64)
        for row, tokens in enumerate(rest):
            ids[row, : len(tokens)] = tokens
        if donor is not None:
            source = self._kept[donor]
            numbers = torch.full((count,), source.number, device=self._device)
            block.copy(source.block, torch.arange(first, first + count, device=self._device), numbers, shared)
        # padding stands at the right, behind everything that looks back, so the plain causal mask is right for all rows
        positions = torch.arange(shared, shared + longest, device=self._device).expand(count, -1)
        rows = slice(first, first + count)
        hidden = self._forward(torch.from_numpy(ids).to(self._device), positions, Past(block, rows, shared))
        block.write_hidden(rows, shared, hidden)
        for number, prompt in enumerate(prompts, start=first):
            self._kept[prompt] = Row(block, number, len(prompt))

    def _hidden_states(
        self, block: Block, prompts: Sequence[tuple[int, ...]], suffixes: Sequence[Sequence[tuple[int, ...]]]
    ) -> Tensor:
        """Last hidden state after each suffix of each prompt: [all suffixes, hidden size]; what is run is kept."""
        rows = [self._kept[prompt] for prompt in prompts]
        growths = [growth(row, paths) for row, paths in zip(rows, suffixes, strict=True)]
        if any(one.tokens for one in growths):
            self._run(block, rows, growths)
        number = [row.number for row, paths in zip(rows, suffixes, strict=True) for _ in paths]
        column = [row.column(path) for row, paths in zip(rows, suffixes, strict=True) for path in paths]
        places = torch.from_numpy(np.array([number, column])).to(self._device)
        return block.hidden[places[0], places[1]]

    def _run(self, block: Block, rows: Sequence[Row], growths: Sequence[Growth]) -> None:
        """Run nodes that the trees lack, all at once, each of which sees the prompt and what is above it."""
        start = block.used
        made = inputs(block, rows, growths)
        block.widen(made.seen.shape[2])
        tokens = torch.from_numpy(np.stack([made.ids, made.positions])).to(self._device)
        seen = torch.from_numpy(made.seen).to(self._device)
        mask = torch.zeros(seen.shape, dtype=self._head.weight.dtype, device=self._device)
        mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)
        every = slice(0, block.rows)
        hidden = self._forward(tokens[0], tokens[1], Past(block, every, start), mask[:, None])
        block.write_hidden(every, start, hidden)
        for row, one in zip(rows, growths, strict=True):
            row.nodes.update(one.nodes)

    def _logprobs(self, hidden: Tensor, steps: Sequence[Step]) -> tuple[Tensor, list[int]]:
        """Of the wanted tokens of each step, from its hidden state: [steps, hidden size].

        Returns:
            float64, one number a wanted token, step after step; and the steps in their order.
        """
        found: list[Tensor] = []
        order: list[int] = []
        weight, bias = self._head.weight, getattr(self._head, "bias", None)
        hidden = hidden.float()

        def rows(ids: Tensor) -> tuple[Tensor, Tensor | float]:
            return weight[ids].float(), 0.0 if bias is None else bias[ids].float()

        full = [i for i, step in enumerate(steps) if step.full]
        for start in range(0, len(full), FULL_CHUNK):
            chunk = full[start : start + FULL_CHUNK]
            logits = torch.nn.functional.linear(hidden[chunk], weight.float(), None if bias is None else bias.float())
            # in float32 the long sum is off by 1e-5 a token, one-sidedly
            logits = self._scaled(logits).double().log_softmax(dim=-1)
            places = self._places([(row, steps[i].wanted) for row, i in enumerate(chunk)])
            found.append(logits[places[0], places[1]])
            order += chunk
        narrow = [i for i, step in enumerate(steps) if not step.full and len(step.wanted) <= NARROW]
        if narrow:
            places = self._places([(i, steps[i].wanted) for i in narrow])
            vectors, offsets = rows(places[1])
            found.append(self._scaled((hidden[places[0]] * vectors).sum(dim=-1) + offsets))
            order += narrow
        wide: dict[int, list[int]] = {}
        for i, step in enumerate(steps):
            if not step.full and len(step.wanted) > NARROW:
                wide.setdefault(id(step.wanted), []).append(i)
        for group in wide.values():
            vectors, offsets = rows(torch.from_numpy(steps[group[0]].wanted).to(self._device))
            found.append(self._scaled(hidden[group] @ vectors.T + offsets).flatten())
            order += group
        return torch.cat([part.double() for part in found]), order

    def _places(self, wanted: Sequence[tuple[int, IntArray]]) -> Tensor:
        """Rows and tokens, int64 [2, all tokens], of the tokens that are wanted of some rows."""
        row = np.repeat([number for number, _ in wanted], [len(tokens) for _, tokens in wanted])
        return torch.from_numpy(np.stack([row, np.concatenate([tokens for _, tokens in wanted])])).to(self._device)

    def _scaled(self, products: Tensor) -> Tensor:
        """Logits from the products of the output layer, as Cohere, Granite and Gemma make them."""
        if self._scale != 1:
            products = products * self._scale
        return products if self._cap is None else self._cap * torch.tanh(products / self._cap)

    def _plain(self, step: Step) -> FloatArray:
        """The answer by one whole pass over prompt and suffix; the reference."""
        logits = self._logits(step.prompt + step.suffix)
        answer: FloatArray = logits.log_softmax(dim=-1)[torch.from_numpy(step.wanted).to(self._device)].cpu().numpy()
        return answer

    def _logits(self, text: tuple[int, ...]) -> Tensor:
        """Float64, of the token after a text."""
        ids = torch.tensor([text], device=self._device)
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits[0, -1].double()
        return logits

    def forget(self) -> bool:
        """Drop the keys and values of all prompts."""
        self._kept.clear()
        return True

    def close(self) -> None:
        """Drop the prompts that are kept; the model's memory is free when nobody holds the engine any more."""
        self.forget()

    @torch.inference_mode()
    def _fault(self) -> str | None:
        """Why this model does not give the same answers when paths are run as a tree by `_forward`; None if it does."""
        tokens = [int(t) for t in np.random.default_rng(0).integers(0, self._head.weight.shape[0], size=12)]
        prompts = [tuple(tokens[:7]), tuple(tokens[7:])]
        suffixes = [(), (tokens[3],), (tokens[3], tokens[9]), (tokens[5], tokens[1])]
        wanted = np.array(sorted(set(tokens)), dtype=np.int64)
        steps = [Step(prompt, suffix, wanted) for prompt in prompts for suffix in suffixes]
        try:
            block = self._gathered(prompts)
            self._bytes_a_token = max(1, block.bytes // block.tokens)
            hidden = self._hidden_states(block, prompts, [suffixes, suffixes])
            products, order = self._logprobs(hidden, steps)
            parts = np.split(products.cpu().numpy(), len(steps))  # all want the same tokens
            fast = [parts[order.index(number)] for number in range(len(steps))]
        except Exception as error:  # whatever the many models raise: run as a whole, they may do
            return f"{type(error).__name__}: {error}"
        finally:
            self._kept.clear()
        slow = [self._plain(step) for step in steps]
        largest = max(float(np.abs((f - f.mean()) - (s - s.mean())).max()) for f, s in zip(fast, slow, strict=True))
        return None if largest <= self._allowed else f"as a tree its logits differ by {largest:.2g}"

    @property
    def _allowed(self) -> float:
        """By how much logits may differ from one pass to another."""
        return 2e-3 if self._head.weight.dtype == torch.float32 else 0.5

    @torch.inference_mode()
    def _check_causal(self) -> None:
        """Refuse a model whose logits after a token are not finite, or change with the tokens behind it.

        Raises:
            ConfigError: They change.
            EngineUnavailableError: They are not finite.
        """
        tokens = [int(t) for t in np.random.default_rng(1).integers(0, self._head.weight.shape[0], size=12)]
        ids = torch.tensor([tokens], device=self._device)
        try:
            whole, begun = (
                self.model(input_ids=part, use_cache=False).logits[0, 6].double() for part in (ids, ids[:, :7])
            )
        except Exception as error:
            raise ConfigError(f"{self.name} cannot be run on plain text: {type(error).__name__}: {error}") from error
        if not (torch.isfinite(whole).all() and torch.isfinite(begun).all()):
            raise EngineUnavailableError(
                f"{self.name} gives logits that are not finite (NaN or infinite) for a few tokens; its weights are "
                "damaged, or too large for its dtype: try dtype='float32' or other weights"
            )
        difference = float((whole.log_softmax(-1) - begun.log_softmax(-1)).abs().max())
        if difference > self._allowed:
            raise ConfigError(
                f"{self.name}, a {type(self._plain_model).__name__}, is no causal LM: its logits after a token differ "
                f"by {difference:.2g} with the tokens behind it; use a causal LM (BERT and its kin are made one by "
                "is_decoder=true in their config.json, and by training)"
            )


def _windows(config: Any) -> list[int]:
    """Lengths of text from which on a model sees or turns tokens otherwise than in shorter texts."""
    lengths = [getattr(config, field, None) for field in WINDOWS]
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in [ropes, *(part for part in ropes.values() if isinstance(part, dict))]:
        if rope.get("rope_type") == "longrope":  # other angles for all of a text as soon as it is long
            first = "original_max_position_embeddings"
            lengths += [rope.get(first), getattr(config, first, None)]
    return [length for length in lengths if length]


def _batches(things: Sequence[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Runs of things whose sizes, each taken as the largest of its run, sum to a limit; `things` ascend in size."""
    batch: list[T] = []
    for thing in things:
        if batch and (len(batch) + 1) * size(thing) > limit:
            yield batch
            batch = []
        batch.append(thing)
    if batch:
        yield batch


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Length of the common beginning, short of all of `other` by one token at least."""
    limit = min(len(one), len(other) - 1)
    return next((i for i in range(limit) if one[i] != other[i]), limit)
