"""What a request costs the host: the whole of `recommend_many` with a model that costs next to nothing.

On a card a request for which hundreds of small operations are launched one by one takes as long as launching them, so
the numbers to look at are CPU time beside the products themselves, operations, and how often the host waits for the
device. The same runs on a CPU: there is no device to wait for then, and the calls that would wait are counted.

    python -m eval.bench host --catalog games.jsonl
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from eval.bench.gpu import prompted
from eval.bench.plan import Plan
from eval.bench.rows import Row, rows_of, versions
from eval.bench.timing import Arm, interleave
from llmgen.catalog.core import Catalog
from llmgen.engines.hf import HFEngine
from llmgen.models import demo_model
from llmgen.recommend.recommender import Recommender
from llmgen.types import Query

K = 10
LAYERS, HIDDEN = 2, 64
"""Of a Llama with random weights and the demo model's vocabulary, all of which the output layer has."""
USERS = (1, 16, 64, 256)
TURNS = 5
WAITS = ("cpu", "item", "tolist", "nonzero", "masked_select", "__bool__", "__int__", "__float__", "__index__")
"""Methods of a tensor for which the host waits until the device has done all that it was told."""
PRODUCTS = ("scaled_dot_product", "mkldnn", "mm")
"""In the names of operations that are the model's arithmetic, whose time on a card is the card's."""


class Counts(NamedTuple):
    """What one run of a request, or of several together, does.

    Attributes:
        operations: Of torch, views left out: on a card each is a launch or more.
        waits: Times that the host waits for the device.
        host_bytes: That are copied from the device then.
        rounds: Times that the engine is asked.
        passes: Of the model's body.
        products_s: CPU seconds in the model's products and attention; of a model on a card, in launching them.
    """

    operations: int
    waits: int
    host_bytes: int
    rounds: int
    passes: int
    products_s: float


class _Operations(TorchDispatchMode):
    count = 0
    products_s = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        views = any(made.alias_info is not None and not made.alias_info.is_write for made in func._schema.returns)
        self.count += not views
        if not any(product in func.name() for product in PRODUCTS):
            return func(*args, **(kwargs or {}))
        start = time.process_time()
        made = func(*args, **(kwargs or {}))
        self.products_s += time.process_time() - start
        return made


class _Waits(TorchFunctionMode):
    kind = "cpu"
    count = bytes = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensor = args[0] if args else None
        name = getattr(func, "__name__", "")
        if name in WAITS and isinstance(tensor, torch.Tensor) and tensor.device.type == self.kind:
            self.count += 1
            self.bytes += tensor.numel() * tensor.element_size()
        return func(*args, **(kwargs or {}))


def run(plan: Plan) -> Iterator[Row]:
    """Measure; see `Part`."""
    users = (1, 4) if plan.quick else USERS
    with tempfile.TemporaryDirectory() as folder:
        engine = HFEngine.load(model_of(Path(folder) / "model"))
        for name, catalog in plan.real.items():
            recommender = Recommender(catalog, engine, num_beams=K, max_history=20, cache=Path(folder))
            yield from measured(recommender, name, prompted(recommender, max(users), seed=plan.seed), users)


def model_of(folder: Path, tokenizer_of: str | None = None) -> str:
    """A Llama with random weights and a model's tokenizer, the demo model's by default; the folder where it lies."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of or str(demo_model()))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
        initializer_range=0.2,  # ten times the default: distributions as uneven as a real model's
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def measured(recommender: Recommender, name: str, asked: Sequence[Query], users: Sequence[int]) -> Iterator[Row]:
    """So many users at a time, nothing kept of their prompts; beside it, their prompts alone."""
    engine = recommender.engine
    assert isinstance(engine, HFEngine)
    catalog: Catalog = recommender.catalog
    length = sum(len(engine.tokenize(recommender.messages(query).messages)) for query in asked)
    for count in users:
        some = asked[:count]

        def forget(turn: int) -> None:
            engine.forget()

        def recommend(turn: int, some: Sequence[Query] = some) -> object:
            return recommender.recommend_many(some)

        def read(turn: int, some: Sequence[Query] = some) -> object:
            return [engine.tokenize(recommender.messages(query).messages) for query in some]

        arms: list[Arm[object]] = [Arm("llmgen", recommend, forget), Arm("prompts alone", read)]
        times = interleave(arms, TURNS, label=f"{count} users, {name}")
        about = Row(
            part="host",
            case=f"{count} users, {name}",
            arm="",
            items=len(catalog),
            prompt_tokens=round(length / len(asked)),
            width=K,
            k=K,
            threads=torch.get_num_threads(),
            amount=count,
            unit="users",
            versions=versions("torch", "transformers", "tokenizers", "numpy"),
        )
        whole, *rest = rows_of(about, times)
        engine.forget()
        counts = counted(engine, partial(recommend, 0))
        assert whole.cpu_s is not None
        products_s = counts.products_s if engine.model.device.type == "cpu" else 0.0
        note = (
            f"{1e3 * (whole.cpu_s - products_s) / count:.2f} ms of CPU a user beside the model's products, "
            f"{1e3 * products_s / count:.2f} ms in them; {counts.rounds} rounds, {counts.passes} passes, "
            f"{counts.operations} operations, {counts.waits} waits, {counts.host_bytes / count:.0f} bytes a user "
            "to the host"
        )
        yield replace(whole, note=note)
        yield from rest


def counted(engine: HFEngine, act: Callable[[], object]) -> Counts:
    """What a run does on the device, by torch's own hooks."""
    untyped: Any = _Operations  # torch gives its base no annotations
    waits, operations = _Waits(), untyped()
    waits.kind = engine.model.device.type
    rounds = patch.object(engine, "next_logprobs", wraps=engine.next_logprobs)
    passes = patch.object(engine, "_forward", wraps=engine._forward)
    with rounds as asked, passes as ran, waits, operations:
        act()
    return Counts(operations.count, waits.count, waits.bytes, asked.call_count, ran.call_count, operations.products_s)
