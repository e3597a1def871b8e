"""Structured output with one choice a title: what xgrammar and llguidance take to be ready for a catalog.

They know nothing of a beam or of probabilities that stay in the catalog; only the time before the first token is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec

from eval.bench.generate import Loaded
from eval.bench.plan import Plan
from eval.bench.rows import Row, rows_of, skipped, versions
from eval.bench.timing import Arm, BenchError, interleave
from llmgen.engines.chat import ChatTokenizer
from llmgen.trie.core import ItemTrie

SIZES = (1_000, 10_000)
CASE = "ready for a choice"


def run(loaded: Loaded, plan: Plan) -> Iterator[Row]:
    """Measure; see `Part`."""
    makers: dict[str, Callable[[Sequence[str]], object]] = {
        "xgrammar": lambda titles: _xgrammar(loaded, titles),
        "llguidance": lambda titles: _llguidance(loaded, titles),
    }
    chat = ChatTokenizer(loaded.tokenizer)
    for package, make in makers.items():
        if find_spec(package) is None:
            yield skipped("search", CASE, package, f"{package} is not installed")
            continue
        for count in SIZES[:1] if plan.quick else SIZES:
            titles = plan.titles(count)
            case = f"{CASE} of {count:,} titles, {package}"
            try:
                measured = interleave([Arm("llmgen", _ours(chat, titles)), Arm(package, _theirs(make, titles))], 1)
            except (BenchError, RuntimeError, ValueError) as error:
                yield skipped("search", case, package, f"refused: {error}")
                continue
            about = Row(part="search", case=case, arm="", items=count, versions=versions(package, "numpy"))
            yield from rows_of(about, measured)


def grammar(titles: Sequence[str]) -> str:
    """A choice of titles in EBNF, written as vLLM writes it.

    >>> print(grammar(["Heat", "Se7en"]))
    root ::= "Heat" | "Se7en"
    """
    escaped = (re.sub(r'(["\\])', r"\\\1", title) for title in titles)
    return "root ::= " + " | ".join(f'"{title}"' for title in escaped)


def _ours(chat: ChatTokenizer, titles: Sequence[str]) -> Callable[[int], object]:
    return lambda turn: ItemTrie.build(chat.spell(titles))


def _theirs(make: Callable[[Sequence[str]], object], titles: Sequence[str]) -> Callable[[int], object]:
    return lambda turn: make(titles)


def _xgrammar(loaded: Loaded, titles: Sequence[str]) -> object:
    xgrammar = import_module("xgrammar")
    size = loaded.model.config.vocab_size
    about = xgrammar.TokenizerInfo.from_huggingface(loaded.tokenizer, vocab_size=size)
    compiler = xgrammar.GrammarCompiler(about, cache_enabled=False)
    return compiler.compile_grammar(grammar(titles))


def _llguidance(loaded: Loaded, titles: Sequence[str]) -> object:
    llguidance = import_module("llguidance")
    tokenizer = import_module("llguidance.hf").from_tokenizer(loaded.tokenizer)
    matcher = llguidance.LLMatcher(tokenizer, llguidance.grammar_from("grammar", grammar(titles)))
    if error := matcher.get_error():
        raise BenchError(error)
    return matcher
