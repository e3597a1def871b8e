"""transformers: the tree of paths equals whole passes, and the search equals scoring every item and `generate`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmgen.catalog.core import Catalog
from llmgen.engines import Engine, GenerationConfig, Step, load_engine
from llmgen.errors import ConfigError, EngineUnavailableError, GenerationError
from llmgen.search import Request, SearchConfig, search
from llmgen.trie.core import ItemTrie
from llmgen.types import Message
from tests.conftest import films
from tests.engines.contract import CHATS, EngineContract
from tests.reference import item_logprobs

torch = pytest.importorskip("torch", reason="needs llmgen[hf]")
import transformers

from llmgen.engines import hf
from llmgen.engines.blocks import Block, Growth, Past, Row
from llmgen.engines.hf import HFEngine

TOLERANCE = {"abs": 1e-4, "rel": 0.0}


def whole_passes(
    engine: HFEngine, prompt: tuple[int, ...], paths: Sequence[tuple[int, ...]]
) -> Callable[[tuple[int, ...]], np.ndarray]:
    """Log-probabilities of the whole vocabulary after each beginning of each path.

    By the model's own forward over prompt and path as a whole, without any of the engine's code.
    """
    known: dict[tuple[int, ...], np.ndarray] = {}
    for path in dict.fromkeys(paths):
        with torch.inference_mode():
            logits = engine.model(input_ids=torch.tensor([prompt + path])).logits[0, len(prompt) - 1 : -1]
        for depth, row in enumerate(logits.double().log_softmax(-1).float().numpy()):
            known.setdefault(path[:depth], row)
    return lambda suffix: known[suffix]


@pytest.fixture(scope="session")
def tiny(tiny_model: Path) -> HFEngine:
    return HFEngine.load(str(tiny_model))


@pytest.fixture(scope="session")
def tiny_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter for it, with weights far from zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapters") / "films"
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def smollm2() -> HFEngine:
    return HFEngine.load()


class TestTinyLlama(EngineContract):
    @pytest.fixture
    def engine(self, tiny: HFEngine, tiny_model: Path, tiny_adapter: Path) -> Engine:
        self.parts = (str(tiny_model), str(tiny_adapter))
        return tiny

    def adapted(self, engine: Engine) -> Engine:
        model, adapter = self.parts
        return HFEngine.load(model, adapter=adapter)


@pytest.mark.slow
@pytest.mark.network
class TestSmolLM2(EngineContract):
    num_titles = 2

    @pytest.fixture
    def engine(self, smollm2: HFEngine) -> Engine:
        return smollm2


def check_search_equals_brute_force(engine: HFEngine, catalog: Catalog, num_prompts: int) -> None:
    trie = ItemTrie.build(engine.spell(catalog.labels))
    paths = [trie.path(item) for item in range(len(catalog))]
    rng = np.random.default_rng(0)
    flat = np.zeros(len(catalog))
    filtered = np.where(rng.random(len(catalog)) < 0.7, -np.inf, 0.0)
    prior = np.where(rng.random(len(catalog)) < 0.2, -np.inf, 2 * rng.normal(size=len(catalog)))
    prompts = [engine.tokenize(chat) for chat in CHATS[:num_prompts]]
    references = [whole_passes(engine, prompt, paths) for prompt in prompts]
    for mode in ("trie", "raw"):
        for weights in (flat, filtered, prior):
            requests = [Request(prompt, weights, 10) for prompt in prompts]
            results = search(trie, engine, requests, SearchConfig(mode, exact=True))
            for result, reference in zip(results, references, strict=True):
                lm = item_logprobs(paths, reference, mode, log_prior=weights)
                scores = np.where(weights > -np.inf, lm + weights, -np.inf)
                assert result.exact
                assert result.scores == pytest.approx(scores[result.items], **TOLERANCE)
                best = np.argsort(-scores, kind="stable")[:10]
                assert result.scores == pytest.approx(scores[best], **TOLERANCE)
                clear = np.abs(np.diff(scores[best])).min() > 1e-3  # no near ties: the very same items
                assert not clear or result.items.tolist() == best.tolist()


def test_search_equals_scoring_every_item(tiny: HFEngine, catalog: Catalog) -> None:
    check_search_equals_brute_force(tiny, catalog, 3)


@pytest.mark.slow
@pytest.mark.network
def test_search_equals_scoring_every_item_with_smollm2(smollm2: HFEngine) -> None:
    check_search_equals_brute_force(smollm2, films(40), 2)


def check_raw_equals_generate(engine: HFEngine, catalog: Catalog, width: int) -> None:
    """Against the library's own constrained beam search, on a catalog of different titles."""
    labels = list(dict.fromkeys(catalog.labels))
    paths = engine.spell(labels)
    trie = ItemTrie.build(paths)
    allowed: dict[tuple[int, ...], list[int]] = {}
    for path in paths:
        for depth, token in enumerate(path):
            allowed.setdefault(path[:depth], []).append(token)
    for prompt in map(engine.tokenize, CHATS):

        def next_tokens(_: int, ids: torch.Tensor, start: int = len(prompt)) -> list[int]:
            return allowed.get(tuple(ids[start:].tolist()), [engine.chat_tokenizer.end])

        output = engine.model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            prefix_allowed_tokens_fn=next_tokens,
            num_beams=width,
            num_return_sequences=width,
            max_new_tokens=max(map(len, paths)),
            length_penalty=0.0,
            do_sample=False,
            eos_token_id=engine.chat_tokenizer.end,
            pad_token_id=engine.chat_tokenizer.end,
            return_dict_in_generate=True,
        )
        theirs = []
        for row in output.sequences[:, len(prompt) :].tolist():
            theirs.append(paths.index(tuple(row[: row.index(engine.chat_tokenizer.end) + 1])))
        request = Request(prompt, np.zeros(len(labels)), width)
        (ours,) = search(trie, engine, [request], SearchConfig("raw", num_beams=width))
        assert ours.items.tolist() == theirs
        found = [paths[item] for item in theirs]
        scores = item_logprobs(found, whole_passes(engine, prompt, found), "raw")
        assert ours.lm_logprobs == pytest.approx(scores, **TOLERANCE)


@pytest.mark.parametrize("width", [10, 20])
def test_raw_mode_equals_generate_with_the_same_width(tiny: HFEngine, catalog: Catalog, width: int) -> None:
    check_raw_equals_generate(tiny, catalog, width)


@pytest.mark.slow
@pytest.mark.network
def test_raw_mode_equals_generate_with_smollm2(smollm2: HFEngine) -> None:
    check_raw_equals_generate(smollm2, films(40), 10)


def test_an_adapter_of_another_size_is_told(tiny_model: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, LlamaForCausalLM

    shutil.copytree(tiny_model, tmp_path / "narrow")
    config = AutoConfig.from_pretrained(tiny_model)
    config.hidden_size = config.hidden_size // 2
    LlamaForCausalLM(config).save_pretrained(tmp_path / "narrow")
    with pytest.raises(EngineUnavailableError, match=r"(?s)cannot load the adapter .*size mismatch"):
        HFEngine.load(str(tmp_path / "narrow"), adapter=str(tiny_adapter))


def test_a_shared_beginning_is_read_once(tiny: HFEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = HFEngine._read

    def counting(self: HFEngine, prompts: list[tuple[int, ...]], donor: object, shared: int, *where: Any) -> None:
        read.extend(len(prompt) - shared for prompt in prompts)
        original(self, prompts, donor, shared, *where)  # type: ignore[arg-type]

    monkeypatch.setattr(HFEngine, "_read", counting)
    tiny._kept.clear()
    instruction = tuple(range(100, 160))
    prompts = [(*instruction, *range(10 + i, 20 + i)) for i in range(5)]
    tiny.next_logprobs([Step(prompt, (), np.arange(3)) for prompt in prompts])
    assert read == [70, 10, 10, 10, 10]
    tiny.next_logprobs([Step(prompt, (7,), np.arange(3)) for prompt in prompts])
    assert read == [70, 10, 10, 10, 10]


@pytest.mark.parametrize("most", [1024, 3])
def test_paths_are_gone_on_with(tiny: HFEngine, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Call after call, each with longer paths and other prompts, the answers are those of one whole pass."""
    monkeypatch.setattr(hf, "MOST_NODES", most)
    tiny._kept.clear()
    widths = []
    original = tiny._run

    def watched(block: Block, rows: list[Row], growths: list[Growth]) -> None:
        widths.append({row.length: len(growth.tokens) for row, growth in zip(rows, growths, strict=True)})
        original(block, rows, growths)

    monkeypatch.setattr(tiny, "_run", watched)
    prompts = [tuple(range(100, 100 + length)) for length in (9, 5, 14)]
    wanted = np.arange(40)
    calls = [
        [(0, (7,)), (0, (8, 9)), (2, (7,))],
        [(0, (7, 5)), (0, (8, 9, 3, 2)), (0, (8,)), (1, (4, 4)), (2, (7, 1))],
        [(2, (7, 1, 6)), (0, (8, 9, 3)), (1, ())],
    ]
    for call in calls:
        steps = [Step(prompts[number], suffix, wanted) for number, suffix in call]
        for step, found in zip(steps, tiny.next_logprobs(steps), strict=True):
            reference = whole_passes(tiny, step.prompt, [(*step.suffix, 0)])(step.suffix)[wanted]
            np.testing.assert_allclose(found - found.mean(), reference - reference.mean(), atol=1e-4)
    if most == 1024:  # by length of the prompt; no node is run twice, none that is there again
        assert widths == [{9: 3, 14: 1}, {9: 3, 5: 2, 14: 1}, {9: 0, 5: 0, 14: 1}]
        assert [tiny._kept[prompt].size for prompt in prompts] == [9 + 6, 5 + 2, 14 + 3]
    else:
        assert all(kept.size <= kept.length + most for kept in tiny._kept.values())


def test_what_is_kept_stays_within_the_budget(tiny_model: Path) -> None:
    engine = HFEngine.load(str(tiny_model), batch_tokens=300)
    trie = ItemTrie.build(engine.spell(["Alien", "Up", "M"]))
    rng = np.random.default_rng(0)
    requests = [Request(tuple(map(int, rng.integers(3, 400, size=50))), np.zeros(3), 2) for _ in range(100)]
    largest = 0
    original = engine._read

    def held() -> int:
        """Tokens that memory is taken for."""
        return sum(block.tokens for block in {id(row.block): row.block for row in engine._kept.values()}.values())

    def watched(*arguments: object) -> None:
        nonlocal largest
        original(*arguments)  # type: ignore[arg-type]
        largest = max(largest, held())

    engine._read = watched  # type: ignore[method-assign]
    search(trie, engine, requests, SearchConfig())
    assert largest <= 2 * 300  # what one batch needs, and what is left of the batch before
    assert held() <= 300


@pytest.mark.parametrize("wrong", ["the short pass", "both passes"])
def test_a_model_that_cannot_be_run_as_a_tree_is_run_plainly(
    wrong: str, tiny_model: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HFEngine.load(str(tiny_model))
    prompt = engine.tokenize(CHATS[0])
    steps = [Step(prompt, suffix, np.arange(9)) for suffix in ((), (5,), (5, 6))]
    expected = engine.next_logprobs(steps)

    def broken(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def made(body: Any) -> Any:
            original = make(body)

            def scaled(ids: Any, positions: Any, past: Past, mask: Any = None) -> Any:
                """Answers otherwise behind something kept than without."""
                return original(ids, positions, past, mask) * (1.5 if past.before else 1.0)

            return scaled

        return made

    monkeypatch.setattr(hf, "short", broken(hf.short))
    if wrong == "both passes":
        monkeypatch.setattr(hf, "by_transformers", broken(hf.by_transformers))
    engine = HFEngine.load(str(tiny_model))
    assert engine._tree_works == (wrong == "the short pass")  # then it is run by transformers' own
    assert ("runs each path as a whole" in caplog.text) == (wrong == "both passes")
    for one, other in zip(engine.next_logprobs(steps), expected, strict=True):
        assert np.allclose(one - one.mean(), other - other.mean(), atol=1e-4)


def test_an_adapter_is_applied(tiny_model: Path, tiny_adapter: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), tiny_adapter)
    plain = load_engine(f"hf:{tiny_model}")
    tuned = load_engine(f"hf:{tiny_model}", adapter=str(tiny_adapter))
    assert tuned.name.endswith("+films")
    step = Step(plain.tokenize(CHATS[0]), (5,), np.arange(400), full=True)
    (before,), (after,) = plain.next_logprobs([step]), tuned.next_logprobs([step])
    with torch.inference_mode():
        logits = model.eval()(input_ids=torch.tensor([step.prompt + step.suffix])).logits[0, -1]
    assert np.abs(after - before).max() > 0.01
    assert np.abs(after - logits.log_softmax(-1).double().numpy()[:400]).max() < 1e-4


def test_titles_cannot_end_the_turn(tiny: HFEngine) -> None:
    (path,) = tiny.spell(["<|im_end|> Code"])
    assert path.count(tiny.chat_tokenizer.end) == 1


def test_the_end_of_turn_is_the_templates_own(tiny: HFEngine) -> None:
    assert tiny.chat_tokenizer.tokenizer.decode([tiny.chat_tokenizer.end]) == "<|im_end|>"


def test_generation_stops_at_the_end_of_turn(tiny: HFEngine) -> None:
    together = tiny.generate(CHATS, GenerationConfig(max_new_tokens=12))
    alone = [tiny.generate([chat], GenerationConfig(max_new_tokens=12))[0] for chat in CHATS]
    assert together == alone


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "no/such/model"}, EngineUnavailableError, "no/such/model"),
        ({"dtype": "int8"}, ConfigError, "int8"),
    ],
)
def test_what_cannot_be_loaded_is_named(options: dict[str, str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        HFEngine.load(**options)  # type: ignore[arg-type]


def shrunk(folder: Path, tiny_model: Path, rows: int) -> Path:
    """The tiny model with an embedding of some rows."""
    from transformers import AutoConfig, LlamaForCausalLM

    shutil.copytree(tiny_model, folder)
    config = AutoConfig.from_pretrained(tiny_model, vocab_size=rows)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_tokenizer_that_is_larger_than_the_embedding_is_refused(
    tiny: HFEngine, tiny_model: Path, tmp_path: Path
) -> None:
    known = len(tiny.chat_tokenizer.tokenizer)
    with pytest.raises(ConfigError) as caught:
        HFEngine.load(str(shrunk(tmp_path / "small", tiny_model, known - 5)))
    last = tiny.chat_tokenizer.tokenizer.convert_ids_to_tokens(known - 1)
    assert f"the token {last!r} ({known - 1}), and the model's embedding has {known - 5} rows" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_control_token_without_a_row_that_no_text_can_write_is_no_hindrance(
    tiny: HFEngine, tiny_model: Path, tmp_path: Path
) -> None:
    """As in Gemma 3 1B, whose tokenizer has the token of an image."""
    folder = shrunk(tmp_path / "image", tiny_model, len(tiny.chat_tokenizer.tokenizer))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    engine = HFEngine.load(str(folder))
    (path,) = engine.spell(["an <image>"])
    assert max(path) < len(tokenizer) - 1


def test_a_chat_template_with_a_mistake_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "bad")
    (tmp_path / "bad" / "chat_template.jinja").write_text("{% for m in messages }", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^the model's chat template cannot be rendered: unexpected '}'; [^\n]*$"):
        HFEngine.load(str(tmp_path / "bad"))


@pytest.mark.parametrize(
    ("file", "text"), [("config.json", "[]"), ("model.safetensors", ""), ("tokenizer.json", "[1]")]
)
def test_a_damaged_file_of_a_model_is_one_error(tiny_model: Path, tmp_path: Path, file: str, text: str) -> None:
    shutil.copytree(tiny_model, tmp_path / "bad")
    (tmp_path / "bad" / file).write_text(text, encoding="utf-8")
    with pytest.raises(EngineUnavailableError, match="cannot load the model"):
        HFEngine.load(str(tmp_path / "bad"))


def test_prompts_that_share_more_with_each_other_than_with_those_before_are_read_once(tiny_model: Path) -> None:
    """As of one user's history before many items, after another user was asked for."""
    engine = HFEngine.load(str(tiny_model))
    head, one, other = tuple(range(20, 40)), tuple(range(40, 70)), tuple(range(70, 100))
    wanted = np.arange(9)
    engine.next_logprobs([Step((*head, *one), (), wanted)])
    before = engine.usage.read_tokens
    prompts = [(*head, *other, last) for last in range(5)]
    answers = engine.next_logprobs([Step(prompt, (), wanted) for prompt in prompts])
    assert engine.usage.read_tokens - before == len(other) + 1 + 4 * 1  # the head is known, the history read once
    alone = HFEngine.load(str(tiny_model))
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = alone.next_logprobs([Step(prompt, (), wanted)])[0]
        assert np.allclose(answer - answer.mean(), expected - expected.mean(), atol=1e-4)


def test_a_models_own_generation_settings_do_not_count(tiny_model: Path) -> None:
    from transformers import GenerationConfig as Theirs

    engine = HFEngine.load(str(tiny_model))
    config = GenerationConfig(max_new_tokens=12)
    expected = engine.generate(CHATS, config)
    sampled = engine.generate(CHATS, GenerationConfig(max_new_tokens=12, temperature=1.5, seed=3))
    own = Theirs(repetition_penalty=3.0, num_beams=3, top_k=1, do_sample=True, min_new_tokens=12, bad_words_ids=[[5]])
    engine.model.generation_config = own
    assert engine.generate(CHATS, config) == expected
    assert engine.generate(CHATS, GenerationConfig(max_new_tokens=12, temperature=1.5, seed=3)) == sampled
    assert engine.model.generation_config is own


def test_thoughts_have_a_budget_of_their_own_and_the_answer_stands_behind_them(tiny_model: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}|{% endfor %}<think>{{ '\n' }}"
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    engine = HFEngine(model, tokenizer)
    chat = [Message("user", "Something slow")]

    def greedy(ids: list[int], most: int) -> list[int]:
        with torch.inference_mode():
            for _ in range(most):
                ids = [*ids, int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
        return ids

    begun = tokenizer("Something slow|<think>\n", add_special_tokens=False)["input_ids"]
    thoughts = tokenizer.decode(greedy(begun, 6)[len(begun) :]).rstrip()
    assert not {"</think>", "<|im_end|>"} & {thoughts}
    asked = [*begun, *tokenizer(f"{thoughts}\n</think>\n\n", add_special_tokens=False)["input_ids"]]
    assert engine.think([chat], GenerationConfig(think_tokens=6)) == [tuple(asked)]
    (answer,) = engine.generate([chat], GenerationConfig(max_new_tokens=4, think_tokens=6))
    assert answer.num_tokens == 4  # the thoughts took none of them
    assert answer.text == tokenizer.decode(greedy(asked, 4)[len(asked) :], skip_special_tokens=True)


def test_every_end_token_of_the_model_ends_an_answer(tiny_model: Path) -> None:
    engine = HFEngine.load(str(tiny_model))
    config = GenerationConfig(max_new_tokens=12)
    (whole,) = engine.generate(CHATS[:1], config)
    ids = engine.model.generate(
        input_ids=torch.tensor([engine.tokenize(CHATS[0])]), max_new_tokens=12, do_sample=False, pad_token_id=0
    )[0, len(engine.tokenize(CHATS[0])) :].tolist()
    assert whole.num_tokens == 12  # nothing has ended it
    engine.model.generation_config.eos_token_id = [engine.chat_tokenizer.end, ids[5]]
    (cut,) = HFEngine(engine.model, engine.chat_tokenizer.tokenizer).generate(CHATS[:1], config)
    assert (cut.num_tokens, cut.finished) == (ids.index(ids[5]), True)


def test_torchs_own_generator_is_left_as_it_was(tiny: HFEngine) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    tiny.generate(CHATS[:1], GenerationConfig(max_new_tokens=3, temperature=1.0))
    assert torch.equal(torch.rand(3), expected)


def test_weights_that_are_no_numbers_are_refused_at_load(tiny_model: Path) -> None:
    engine = HFEngine.load(str(tiny_model))
    with torch.no_grad():
        engine._head.weight.fill_(torch.nan)
    with pytest.raises(EngineUnavailableError, match="not finite"):
        HFEngine(engine.model, engine.chat_tokenizer.tokenizer)


def test_logits_that_are_no_numbers_are_one_error(tiny_model: Path, catalog: Catalog) -> None:
    engine = HFEngine.load(str(tiny_model))
    trie = ItemTrie.build(engine.spell(catalog.labels))
    requests = [Request(engine.tokenize(chat), np.zeros(len(catalog)), 5) for chat in CHATS[:2]]
    search(trie, engine, requests, SearchConfig())
    with torch.no_grad():
        engine._head.weight.fill_(torch.nan)
    with pytest.raises(GenerationError, match=r"NaN or \+inf after 2 of 2 prompts"):
        search(trie, engine, requests, SearchConfig())


def test_the_budget_is_what_a_gigabyte_holds(tiny: HFEngine) -> None:
    """Two layers, two heads of keys and of values, 16 float32 numbers each, and 64 of the last hidden state."""
    assert tiny.batch_tokens == 1_000_000_000 // (2 * 2 * 2 * 16 * 4 + 64 * 4)
