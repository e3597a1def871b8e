"""The digest of a tokenizer is that of what it does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs llmgen[hf]")

from llmgen.engines.chat import ChatTokenizer, without_thoughts
from llmgen.errors import ConfigError
from llmgen.types import Message
from tests.engines.tokenizers import sentencepiece


def changed(model: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """Digest of a tokenizer whose file was changed."""
    shutil.copytree(model, folder)
    file = folder / "tokenizer.json"
    definition = json.loads(file.read_text(encoding="utf-8"))
    change(definition)
    file.write_text(json.dumps(definition), encoding="utf-8")
    return ChatTokenizer.load(str(folder)).digest


def test_a_digest_is_of_tokens_and_not_of_how_a_version_writes_them(tiny_model: Path, tmp_path: Path) -> None:
    def written_anew(definition: dict[str, Any]) -> None:
        definition["normalizer"] = {"type": "Sequence", "normalizers": []}
        definition["model"]["fuse_unk"] = True

    assert changed(tiny_model, tmp_path / "a", written_anew) == ChatTokenizer.load(str(tiny_model)).digest


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda definition: definition["model"]["merges"].clear(), id="merges"),
        pytest.param(lambda definition: definition.update(normalizer={"type": "Lowercase"}), id="normalizer"),
        pytest.param(lambda definition: definition["pre_tokenizer"].update(add_prefix_space=True), id="spaces"),
    ],
)
def test_other_tokens_are_another_digest(
    tiny_model: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    assert changed(tiny_model, tmp_path / "a", change) != ChatTokenizer.load(str(tiny_model)).digest


def test_another_end_is_another_digest(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message.content }}<|endoftext|>{% endfor %}", encoding="utf-8"
    )
    assert ChatTokenizer.load(str(folder)).digest != ChatTokenizer.load(str(tiny_model)).digest


def loaded(tiny_model: Path, **changes: Any) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return tokenizer


def test_ordinary_added_tokens_are_text_and_special_ones_are_not(tiny_model: Path) -> None:
    plain = loaded(tiny_model)
    before = ChatTokenizer(plain).digest
    plain.add_tokens(["Alien", "<a_1>", "<|mark|>"])
    plain.add_tokens(["<|ctl|>"], special_tokens=True)
    plain.chat_template = "{% for m in messages %}<|mark|>{{ m.content }}{% endfor %}"
    chat = ChatTokenizer(plain)
    assert {"<|ctl|>", "<|mark|>"} <= chat.control_tokens  # a role marker need not be special
    assert not {"Alien", "<a_1>"} & chat.control_tokens
    ids = plain.convert_tokens_to_ids(["Alien", "<a_1>"])
    assert [chat.spell([text])[0] for text in ("Alien", "<a_1>")] == [(number, chat.end) for number in ids]
    assert chat.digest != before


def test_nothing_stands_behind_a_prompt_and_the_beginning_stands_once(tiny_model: Path) -> None:
    """A tokenizer that writes `<s> text </s>`, as T5's and some of Llama's do, and no chat template."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = loaded(tiny_model, chat_template=None)
    first, last = tokenizer.convert_ids_to_tokens([3, tokenizer.eos_token_id])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, 3), (last, tokenizer.eos_token_id)]
    )
    assert tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    ids = ChatTokenizer(tokenizer).tokenize([Message("user", "a")])
    assert list(ids) == [3, *tokenizer("User: a\n\nAssistant:", add_special_tokens=False)["input_ids"]]


def test_all_tokens_that_end_an_answer(tiny_model: Path) -> None:
    chat = ChatTokenizer(loaded(tiny_model))
    assert chat.ends(None, [7, 8], 9) == {chat.end, 7, 8, 9}
    assert chat.ends() == {chat.end}


QWEN3 = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
)


def text_of(chat: ChatTokenizer, *messages: Message) -> str:
    return str(chat.tokenizer.decode(chat.tokenize(messages)))


def test_models_that_can_think_are_told_not_to(tiny_model: Path) -> None:
    chat = ChatTokenizer(loaded(tiny_model, chat_template=QWEN3))
    assert text_of(chat, Message("user", "a")) == "<|user|>a<|assistant|><think></think>"


@pytest.mark.parametrize("end", ["<think>", "<think>\n"])
def test_thoughts_that_a_template_begins_are_ended(tiny_model: Path, end: str) -> None:
    chat = ChatTokenizer(loaded(tiny_model, chat_template="{% for m in messages %}{{ m.content }}|{% endfor %}" + end))
    begun = text_of(chat, Message("user", "a"))
    assert begun == "a|<think>\n</think>\n\n"
    assert text_of(chat, Message("user", "a"), Message("assistant", "b")).startswith(begun + "b")


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("Solaris", "Solaris"),
        ("<think>\nNot this one:\nBrazil\n</think>\n\nSolaris", "Solaris"),
        ("Brazil?\n</think>\nSolaris", "Solaris"),  # begun in the prompt
        ("<think>Brazil", ""),  # the budget ended it
        ("<thinking>a</thinking>1. Alien\n<think>b</think>2. Heat", "1. Alien\n2. Heat"),
        ("[THINK]Brazil[/THINK]Solaris", "Solaris"),
        ("<THINK>Brazil</THINK> 4", "4"),
        ("<seed:think>Brazil</seed:think>Solaris", "Solaris"),
        ("<seed:think>Brazil", ""),
        ("<mm:think>Brazil</mm:think>Solaris", "Solaris"),
        ("[THINK]Brazil", ""),
        ("<|START_THINKING|>Brazil<|END_THINKING|>Solaris", "Solaris"),
        ("◁think▷Brazil◁/think▷Solaris", "Solaris"),
        ("<|channel>thought\nBrazil<channel|>Solaris", "Solaris"),
        ("Here is my thought process: Brazil. Here is my response: Solaris", "Solaris"),
        ("<|channel|>analysis<|message|>Brazil?<|end|><|start|>assistant<|channel|>final<|message|>Solaris", "Solaris"),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>b<|end|>"
            "<|start|>assistant<|channel|>final<|message|>1. Alien\n2. Heat",
            "1. Alien\n2. Heat",
        ),
        ("<|channel|>analysis<|message|>Brazil", ""),
        ("<|channel|>final<|message|>Solaris", "Solaris"),
        ("analysisBrazil? No.assistantfinalSolaris", "Solaris"),  # a server left the control tokens out
        ("analysis of the final", "analysis of the final"),
        ("I think <3 Solaris", "I think <3 Solaris"),
    ],
)
def test_thoughts_are_no_answer(written: str, answer: str) -> None:
    assert without_thoughts(written) == answer


@pytest.mark.parametrize("special", [True, False])
def test_decoding_leaves_thoughts_out_whether_or_not_their_marks_are_control_tokens(
    tiny_model: Path, special: bool
) -> None:
    tokenizer = loaded(tiny_model)
    tokenizer.add_tokens(["[THINK]", "[/THINK]"], special_tokens=special)
    chat = ChatTokenizer(tokenizer)

    def decoded(text: str) -> str:
        return chat.decode(tokenizer(text, add_special_tokens=False)["input_ids"])

    assert decoded("[THINK]not Brazil[/THINK]Solaris<|im_end|>") == "Solaris"
    assert decoded("[THINK]not Brazil") == ""
    assert decoded("Solaris <3<|im_end|>") == "Solaris <3"


HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
    "<|message|>{{ m.content }}{% if loop.last and not add_generation_prompt %}<|return|>{% else %}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


def test_an_answer_in_harmony_begins_in_its_last_channel(tiny_model: Path) -> None:
    tokenizer = loaded(tiny_model, chat_template=HARMONY)
    marks = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"]
    tokenizer.add_tokens(marks, special_tokens=True)
    chat = ChatTokenizer(tokenizer)
    asked = "<|start|>user<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>"
    assert text_of(chat, Message("user", "a")) == asked
    assert chat.end == tokenizer.convert_tokens_to_ids("<|return|>")
    written = (
        "<|channel|>analysis<|message|>Brazil<|end|><|start|>assistant<|channel|>final<|message|>Solaris<|return|>"
    )
    assert chat.decode(tokenizer(written, add_special_tokens=False)["input_ids"]) == "Solaris"


def test_a_budget_of_thoughts_is_nought(tiny_model: Path) -> None:
    """As Seed-OSS knows it."""
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ thinking_budget }}"
    assert text_of(ChatTokenizer(loaded(tiny_model, chat_template=template)), Message("user", "a")) == "a0"


def test_a_system_message_that_a_template_drops_goes_to_the_user(tiny_model: Path) -> None:
    template = "{% for m in messages if m.role != 'system' %}<{{ m.content }}>{% endfor %}"
    chat = ChatTokenizer(loaded(tiny_model, chat_template=template))
    assert text_of(chat, Message("system", "be brief"), Message("user", "films?")) == "<be brief\n\nfilms?>"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}{{ m.content }", "cannot be rendered"),
        (
            "{% for m in messages %}{% for p in m.content if p.text is defined %}{{ p.text }}{% endfor %}{% endfor %}",
            "leaves out",
        ),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(tiny_model: Path, template: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ChatTokenizer(loaded(tiny_model, chat_template=template))


def test_a_template_that_tells_the_date_tells_the_same_one_every_day(tiny_model: Path) -> None:
    """As those of Llama 3 and gpt-oss: else a prompt, and all that is kept for it, is another one tomorrow."""
    template = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}<{{ m.content }}>{% endfor %}"
    chat = ChatTokenizer(loaded(tiny_model, chat_template=template))
    assert text_of(chat, Message("user", "a")) == "26 Jul 2024<a>"


def test_a_template_that_drops_the_users_words_beside_a_system_message_gets_one_message(tiny_model: Path) -> None:
    template = (
        "{% set first = messages[0] %}{% if first.role == 'user' %}<{{ first.content }}>{% else %}[{{ first.content }}]"
    )
    template += "{% endif %}"
    chat = ChatTokenizer(loaded(tiny_model, chat_template=template))
    assert text_of(chat, Message("system", "be brief"), Message("user", "films?")) == "<be brief\n\nfilms?>"


def test_a_template_that_drops_answers_does_not_tell_how_they_end(tiny_model: Path) -> None:
    template = "{% for m in messages if m.role == 'user' %}<|im_start|>{{ m.content }}{% endfor %}"
    chat = ChatTokenizer(loaded(tiny_model, chat_template=template))
    assert chat.tokenizer.decode([chat.end]) == "<|im_end|>"  # its eos


def test_a_template_that_cannot_write_an_answer_is_refused(tiny_model: Path) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('no answers') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    with pytest.raises(ConfigError, match="cannot render an assistant's message: no answers"):
        ChatTokenizer(loaded(tiny_model, chat_template=template))


@pytest.mark.parametrize("scheme", ["legacy", "first"])
def test_lines_are_tokens_that_a_text_has_in_sentencepiece(scheme: str) -> None:
    tokenizer = sentencepiece(scheme)
    chat = ChatTokenizer(tokenizer)
    ids = list(chat.lines(["A", "5"]))
    assert tokenizer.convert_ids_to_tokens(ids) == ["\u2581A", "<0x0A>", "\u25815", "<0x0A>"]
    assert ids == tokenizer(tokenizer.decode(ids), add_special_tokens=False)["input_ids"]
    asked = (Message("user", "a"),)
    begun = chat.tokenize((*asked, Message("assistant", "A\n5")))
    assert list(begun) == [*chat.tokenize(asked), *ids]


def test_thoughts_are_ended_without_a_space_that_no_text_has() -> None:
    tokenizer = sentencepiece("legacy")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>"
    tokens = tokenizer.convert_ids_to_tokens(ChatTokenizer(tokenizer).tokenize([Message("user", "a")]))
    assert tokens[-11:] == ["<0x0A>", "<0x3C>", "<0x2F>", *"think", "<0x3E>", "<0x0A>", "<0x0A>"]
    assert tokens[-12] == "<0x3E>"  # of `<think>`


def test_lines_of_byte_level_tokenizers_are_as_they_were(tiny_model: Path) -> None:
    tokenizer = loaded(tiny_model)
    chat = ChatTokenizer(tokenizer)
    (line_break,) = tokenizer("\n", add_special_tokens=False)["input_ids"]
    bare = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Alien (1979)", "5")]
    assert list(chat.lines(["Alien (1979)", "5"])) == [*bare[0], line_break, *bare[1], line_break]


def test_a_tokenizer_that_knows_no_line_break_says_so(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    from tokenizers import normalizers

    tokenizer = loaded(tiny_model)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\n", " ")
    chat = ChatTokenizer(tokenizer)
    assert "no line break of its own" in caplog.text
    assert chat.spell(["Alien"])
    with pytest.raises(ConfigError, match="next_item"):
        chat.lines(["Alien"])


R1 = "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}{% endfor %}<assistant>"


@pytest.mark.parametrize(
    ("template", "begun"),
    [
        (QWEN3, "<|user|>a<|assistant|><think>\n"),
        (R1, "<user>a<assistant><think>\n"),
        (R1 + "<think>{{ '\n' }}", "<user>a<assistant><think>\n"),
        (R1.replace("</think>", "[/THINK]"), "<user>a<assistant>[THINK]\n"),
    ],
)
def test_a_model_that_thinks_is_asked_to_think_and_to_answer_after_its_budget(
    tiny_model: Path, template: str, begun: str
) -> None:
    chat = ChatTokenizer(loaded(tiny_model, chat_template=template))
    asked = [Message("user", "a")]
    prompt = chat.thinking(asked, 9)
    assert chat.tokenizer.decode(prompt) == begun
    mark = begun.rpartition("<assistant>")[2].strip().rpartition("|>")[2].replace("<", "</").replace("[", "[/")
    for written in ("Heat?", f"Heat?\n{mark}\n\nSolaris"):  # the budget ended it; it ended by itself
        ids = chat.thought(asked, prompt, chat.tokenizer(written, add_special_tokens=False)["input_ids"])
        assert chat.tokenizer.decode(ids) == f"{begun}Heat?\n{mark}\n\n"
    listed = [*asked, Message("assistant", "Alien\nHeat")]
    assert chat.thinking(listed, 9) == prompt
    ids = chat.thought(listed, prompt, chat.tokenizer("Hm", add_special_tokens=False)["input_ids"])
    assert chat.tokenizer.decode(ids) == f"{begun}Hm\n{mark}\n\nAlien\nHeat\n"


def test_thoughts_in_harmony_end_where_the_final_channel_begins(tiny_model: Path) -> None:
    template = "{# <|channel|>analysis<|message|> #}" + HARMONY
    tokenizer = loaded(tiny_model, chat_template=template)
    marks = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"]
    tokenizer.add_tokens(marks, special_tokens=True)
    chat = ChatTokenizer(tokenizer)
    prompt = chat.thinking([Message("user", "a")], 9)
    begun = "<|start|>user<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>"
    assert tokenizer.decode(prompt) == begun
    assert chat.thought_ends == {tokenizer.convert_tokens_to_ids("<|end|>")}
    ids = chat.thought([Message("user", "a")], prompt, tokenizer("Hm", add_special_tokens=False)["input_ids"])
    assert tokenizer.decode(ids) == f"{begun}Hm<|end|><|start|>assistant<|channel|>final<|message|>"


def test_a_model_that_does_not_think_cannot_be_asked_to(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="knows no thoughts, so think_tokens must be 0, not 9"):
        ChatTokenizer(loaded(tiny_model)).thinking([Message("user", "a")], 9)


def test_a_rendered_chat_has_the_tokens_that_transformers_gives_it(tiny_model: Path) -> None:
    """They are read by tokenizers itself, without what transformers wraps around it."""
    chat = ChatTokenizer.load(str(tiny_model))
    assert chat._quick
    for text in ("Alien (1979)", "七人の侍 \u200b 𝒜", "a<|im_end|>b <|im_start|>user", "  x\n\n\ty ", "film " * 200):
        turns = [{"role": "system", "content": "s"}, {"role": "user", "content": text}]
        rendered = chat.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        expected = tuple(chat.tokenizer(rendered, add_special_tokens=False)["input_ids"])
        assert chat.tokenize([Message("system", "s"), Message("user", text)]) == expected


def test_a_tokenizer_that_does_more_than_tokenizers_is_asked_itself(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(tiny_model)

    class Lowering(type(plain)):  # type: ignore[misc]
        def __call__(self, text: Any, **settings: Any) -> Any:
            return super().__call__(text.lower() if isinstance(text, str) else text, **settings)

    tokenizer = Lowering.from_pretrained(tiny_model)
    chat = ChatTokenizer(tokenizer)
    assert not chat._quick
    expected = tokenizer.apply_chat_template(
        [{"role": "user", "content": "ALIEN"}], add_generation_prompt=True, return_dict=False
    )
    assert chat.tokenize([Message("user", "ALIEN")]) == tuple(expected)
    assert chat.tokenize([Message("user", "ALIEN")]) == chat.tokenize([Message("user", "alien")])
