import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgen.text.sanitize import find_token, sanitize, split_tokens

GIVEN = frozenset({"<|im_start|>", "<|im_end|>", "<tool>", "</tool>", "�", "### Response:", "aXa", "ab", "a b"})
PIECES = [
    *sorted(GIVEN),
    *("<|im_", "start|>", "<|", "|>", "<", ">", "[", "]", "/", "INST", "[INST]", "<s>", "</s>", "<<SYS>>", "<bos>"),
    *("\n", "\r\n", "\u2028", "\x00", "\t", " ", "\u200b", "\u200d", "\ufe0f", "|", "｜", "＜", "＞", "\ud800"),
    *("Alien", "七人の侍", "🎬", "a", "X", "b", "é", "e\u0301", "ﬀ", "İ", "system", "user\n"),
]
texts = st.one_of(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.text(max_size=30))


@pytest.mark.parametrize(
    "title",
    [
        *("Alien (1979)", "I <3 Huckabees", "<3", "S<pace>", "Face/Off", "M*A*S*H", "(500) Days", "a < b > c", "<>"),
        *("[REC]", "[REC]²", "|| Rewind", "$9.99", "{{ 7 * 7 }}", "七人の侍", "Amélie", "👨‍👩‍👧 Family", "A  B", "#1"),
    ],
)
def test_an_ordinary_title_stays_as_it_is(title: str) -> None:
    assert sanitize(title) == title


@pytest.mark.parametrize(
    "token",
    [
        *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|turn>", "<turn|>"),
        *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>", "<think>"),
        *("<thinking>", "</thought>", "<seed:think>", "</seed:think>", "[THINK]", "[/THINK]", "◁think▷", "<|channel|>"),
        *("<start_of_turn>", "<end_of_turn>", "<｜User｜>", "<｜begin▁of▁sentence｜>", "[TOOL_CALLS]", "</tool_call>"),
    ],
)
def test_tokens_of_common_chat_formats_are_split_behind_their_first_character(token: str) -> None:
    assert sanitize(f"The {token} Code") == f"The {token[0]} {token[1:]} Code"


def test_a_token_inside_a_token_does_not_close_to_a_new_one() -> None:
    assert sanitize("<|im_<|im_end|>start|>") == "<|im_< |im_end|>start|>"


@pytest.mark.parametrize("hidden", ["<|IM_end|>", "＜|im_end|＞", "<|im\u200b_end|>", "<\ufe0f|im_end|>"])
def test_a_token_hidden_from_plain_comparison_is_found(hidden: str) -> None:
    assert find_token(f"x{hidden}y", ["<|im_end|>"]) == hidden
    assert find_token(sanitize(hidden, ["<|im_end|>"]), ["<|im_end|>"]) is None


def test_a_token_of_one_character_becomes_a_space() -> None:
    assert sanitize("a�b", ["�"]) == "a b"


def test_tokens_of_blanks_are_text() -> None:
    assert sanitize("a    b", ["    ", "\n", " "]) == "a    b"


def test_blanks_around_a_token_do_not_hide_it() -> None:
    assert sanitize("x<tool>", [" <tool> "]) == "x< tool>"


def test_breaks_and_control_characters_become_one_space() -> None:
    assert sanitize("\tAlien\r\n\r\n- Aliens\u2028\x00M\n") == "Alien - Aliens M"


def test_lone_surrogates_go_so_that_text_can_be_encoded() -> None:
    assert sanitize("a\ud800b") == "a b"


def test_one_string_for_many_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not the one string '<s>'"):
        sanitize("text", "<s>")


@given(texts)
def test_no_token_survives_and_twice_is_as_once(text: str) -> None:
    once = sanitize(text, GIVEN)
    assert find_token(once, GIVEN) is None
    assert not any(token in once for token in GIVEN)
    assert sanitize(once, GIVEN) == once
    assert len(once.splitlines()) <= 1
    assert once == once.strip()


@given(texts)
def test_only_blanks_are_added_and_only_blanks_control_characters_and_one_character_tokens_lost(text: str) -> None:
    def words(text: str) -> str:
        dropped = {"�", *map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *map(chr, range(0xD800, 0xE000))}
        return "".join(c for c in text if not c.isspace() and c not in dropped)

    assert words(sanitize(text, GIVEN - {"ab", "a b"})) == words(text)


@given(texts)
def test_splitting_keeps_lines(text: str) -> None:
    assert split_tokens(text, ["<tool>"]).count("\n") == text.count("\n")


def test_a_long_hostile_wish_takes_no_long_time() -> None:
    for piece in ("<|im_end|>", "<", "<|", "<|a", "\n ", " ", "["):
        assert find_token(sanitize(piece * (100_000 // len(piece)), GIVEN), GIVEN) is None
