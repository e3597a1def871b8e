"""Prompts: what is checked when they load, and that nothing in a value can leave its place.

`python tests/templates/test_templates.py` writes the snapshots of rendered messages again, after a change of wording.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen.catalog.core import Catalog
from llmgen.errors import MissingVariableError, TemplateError, TemplateNotFoundError
from llmgen.templates import tasks
from llmgen.templates.fitting import fit
from llmgen.templates.library import PromptLibrary, PromptTemplate
from llmgen.templates.views import ItemView, plural, views
from llmgen.text.sanitize import sanitize
from llmgen.types import Item, Message

SNAPSHOTS = Path(__file__).parents[1] / "snapshots"
LIBRARY = PromptLibrary.default()
SECRET = "SECRET-7f3a"
FILMS = Catalog(
    [
        Item(f"{SECRET}-1", "Alien", {"year": 1979, "genres": ("horror", "space"), "cost": SECRET}),
        Item(f"{SECRET}-2", "七人の侍", {"year": 1954, "genres": ("drama",), "cost": SECRET}),
        Item(f"{SECRET}-3", "Up 🎈", {"year": 2009, "cost": SECRET}),
        Item(f"{SECRET}-4", "Solaris", {"year": 1972, "genres": ("space", "slow"), "cost": SECRET}),
    ],
    noun="film",
    label="{title} ({year})",
    shown=["genres"],
)
ALL = views(FILMS, FILMS)
FULL: dict[str, Any] = {
    "noun": FILMS.noun,
    "nouns": plural(FILMS.noun),
    "history": views(FILMS, [FILMS[0], FILMS[1]], [4.0, 3.5]),
    "wish": "slow science fiction, first contact",
    "candidates": ALL[2:],
    "item": ALL[3],
    "labels": ("1", "2", "3", "4", "5"),
    "evidence": ALL[:1],
    "k": 5,
}
BARE: dict[str, Any] = FULL | {"history": (), "wish": None, "evidence": ()}
TARGETS: dict[str, Any] = {
    "rate": "4",
    "explain": "You liked Alien, and this is space again.",
    "describe": "space, slow",
}

FRONT = "---\nname: mine\nversion: 1\ndescription: Mine.\ntask: next_item\nvariables: [{}]\n---\n"
GOOD = FRONT.format("k") + "{% block user %}Give {{ k }}.{% endblock %}"


def target_of(prompt: PromptTemplate) -> Any:
    return TARGETS.get(prompt.task, ALL[2:])


def snapshot(prompt: PromptTemplate) -> str:
    """Messages with everything given, then with as little as possible."""
    parts = [f"{prompt.name} version {prompt.version}\n"]
    for title, variables in (("everything", FULL), ("nothing known", BARE)):
        parts.append(f"######## {title}\n")
        parts += [f"[{m.role}]\n{m.content}\n" for m in prompt.render(variables, target=target_of(prompt))]
    return "\n".join(parts)


def library(folder: Path, text: str = GOOD, **others: str) -> PromptLibrary:
    """A library of the prompt `mine` and other files, before the library's own prompts."""
    folder.mkdir(exist_ok=True)
    for name, content in {"mine": text, **others}.items():
        (folder / f"{name}.jinja").write_text(content, encoding="utf-8")
    return PromptLibrary.default(folder)


def problem(folder: Path, text: str, **others: str) -> str:
    with pytest.raises(TemplateError) as caught:
        library(folder, text, **others)["mine"]
    return str(caught.value).removeprefix(f"{folder}/")


# The prompts that come with llmgen


@pytest.mark.parametrize("name", LIBRARY)
def test_messages_are_as_in_the_snapshot(name: str) -> None:
    assert snapshot(LIBRARY[name]) == (SNAPSHOTS / f"{name}.txt").read_text(encoding="utf-8")


def test_every_snapshot_has_a_prompt() -> None:
    assert {path.stem for path in SNAPSHOTS.glob("*.txt")} == set(LIBRARY)


def test_our_own_prompts_have_no_problems() -> None:
    assert LIBRARY.check() == []
    assert set(LIBRARY) == {"next_item", "next_item_taste", "next_item_zh", "cold_start", "cold_start_zh"} | {
        "next_item_list",
        "rerank",
        "rate",
        "rate_list",
        "explain",
        "describe",
    }


@pytest.mark.parametrize("name", LIBRARY)
def test_prompts_say_nothing_about_the_domain_or_the_ids(name: str) -> None:
    words = FULL | {"noun": "Xn", "nouns": "Xs", "history": (), "evidence": ()}
    text = " ".join(m.content for m in LIBRARY[name].render(words)).lower()
    assert not re.search(r"film|movie|watch|电影|song|product|buy", text)
    assert SECRET.lower() not in snapshot(LIBRARY[name]).lower()


@pytest.mark.parametrize("name", ["next_item", "next_item_taste", "next_item_zh"])
def test_all_before_the_history_is_the_same_for_all_users(name: str) -> None:
    one = LIBRARY[name].render(FULL)
    two = LIBRARY[name].render(FULL | {"history": ALL[2:], "wish": None, "k": 7})
    assert one[0] == two[0]
    assert one[1].content.partition("\n- ")[0] == two[1].content.partition("\n- ")[0] != ""


def test_the_training_prompt_is_the_serving_prompt() -> None:
    prompt = LIBRARY["next_item"]
    trained = prompt.render(FULL, target=ALL[2:])
    assert trained[:-1] == prompt.render(FULL)
    assert trained[-1] == Message("assistant", "Up 🎈 (2009)\nSolaris (1972)")


def test_a_prompt_that_continues_begins_the_answer_with_the_history() -> None:
    prompt = LIBRARY["next_item_list"]
    assert prompt.continues
    assert not LIBRARY["next_item"].continues
    begun = prompt.render(FULL | {"history": ALL[:2]})
    assert begun[-1] == Message("assistant", "\n".join(item.title for item in ALL[:2]))
    trained = prompt.render(FULL | {"history": ALL[:2]}, target=ALL[2:3])
    assert trained[:-1] == begun[:-1] == prompt.render(FULL | {"history": ALL[2:]})[:-1]
    assert trained[-1].content == f"{begun[-1].content}\n{ALL[2].title}"
    assert [message.role for message in prompt.render(FULL | {"history": ()})] == ["system", "user"]


def test_a_list_of_ratings_stands_below_its_titles_and_ends_at_the_one_asked_for() -> None:
    prompt = LIBRARY["rate_list"]
    one, two, asked = (item.title for item in (ALL[0], ALL[1], FULL["item"]))
    begun = prompt.render(FULL)
    assert begun[-1] == Message("assistant", f"{one}\n4\n{two}\n3.5\n{asked}")
    assert prompt.render(FULL, target="2")[-1].content == f"{begun[-1].content}\n2"
    unrated = prompt.render(FULL | {"history": ALL[:1]})
    assert unrated[-1].content == f"{one}\n?\n{asked}"
    assert prompt.render(FULL | {"history": ()})[-1].content == asked


# Finding


def test_names_by_task() -> None:
    assert LIBRARY.names("cold_start") == ("cold_start", "cold_start_zh")
    assert len(LIBRARY) == len(LIBRARY.names())
    assert "next_item" in LIBRARY
    assert "_base" not in LIBRARY
    assert "next_item.jinja" not in LIBRARY


@pytest.mark.parametrize("name", ["next_itme", "_base", "../prompts/next_item", "/etc/passwd", ""])
def test_an_unknown_name_is_told_with_those_near(name: str) -> None:
    with pytest.raises(TemplateNotFoundError, match="next_item"):
        LIBRARY[name]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="nowhere"):
        PromptLibrary(tmp_path / "nowhere")


def test_ones_own_folder_comes_first(tmp_path: Path) -> None:
    text = LIBRARY["next_item"].path.read_text(encoding="utf-8").replace("Predict", "Guess")
    prompt = library(tmp_path, next_item=text)["next_item"]
    assert "Guess what" in prompt.render(FULL)[1].content
    assert prompt.digest != LIBRARY["next_item"].digest


# Extending, digests


def test_a_child_changes_one_block_and_keeps_the_rest(tmp_path: Path) -> None:
    child = FRONT.format("nouns, history, wish, k") + (
        '{% extends "next_item.jinja" %}\n{% block instruction %}\nBe bold. {{ super() | trim }}\n{% endblock %}\n'
    )
    ours, mine = (
        LIBRARY["next_item"].render(FULL, target=ALL),
        library(tmp_path, child)["mine"].render(FULL, target=ALL),
    )
    assert mine[0] == ours[0]
    assert mine[1].content == f"Be bold. {ours[1].content}"
    assert mine[2] == ours[2]


def test_a_child_may_blank_the_system_message(tmp_path: Path) -> None:
    child = FRONT.format("nouns, history, wish, k") + '{% extends "next_item.jinja" %}{% block system %}{% endblock %}'
    assert [m.role for m in library(tmp_path, child)["mine"].render(FULL)] == ["user"]


def test_a_digest_changes_with_every_file_that_counts_and_no_other(tmp_path: Path) -> None:
    base = "{% macro f(x) %}{{ x }}!{% endmacro %}"
    parent = GOOD.replace("mine", "top").replace("---\n{%", '---\n{% from "_b.jinja" import f %}{%')
    child = FRONT.format("k") + '{% extends "top.jinja" %}'
    files = {"top": parent, "_b": base, "_other": "x"}

    def digest(**changes: str) -> str:
        return library(tmp_path, **{"text": child, **files, **changes})["mine"].digest

    first = digest()
    assert re.fullmatch("[0-9a-f]{12}", first)
    assert digest() == first
    assert digest(_other="y") == first
    assert len({first, digest(_b=base + " "), digest(top=parent + " "), digest(text=child + " ")}) == 4


def test_a_digest_does_not_depend_on_line_ends(tmp_path: Path) -> None:
    first = library(tmp_path).__getitem__("mine")
    (tmp_path / "mine.jinja").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    second = PromptLibrary(tmp_path)["mine"]
    assert first.ref == second.ref == f"mine@{first.digest}"


def test_a_text_takes_the_place_of_a_file_and_leaves_the_library_as_it_was(tmp_path: Path) -> None:
    ours = PromptLibrary.default()
    text = ours["next_item"].path.read_text(encoding="utf-8").replace("Predict what", "Guess what")
    library = ours.with_text("next_item", text.replace("\n", "\r\n"))
    (tmp_path / "next_item.jinja").write_text(text, encoding="utf-8")
    saved = PromptLibrary.default(tmp_path)["next_item"]
    assert library["next_item"].digest == saved.digest != ours["next_item"].digest
    given = {"nouns": "films", "history": (), "k": 2}
    assert library["next_item"].render(given) == saved.render(given)
    assert "Guess what" not in ours["next_item"].render(given)[1].content
    assert library["rate"].digest == ours["rate"].digest
    more = library.with_text("mine", text.replace("name: next_item", "name: mine"))
    assert "mine" in more and "mine" not in library and more["next_item"].digest == saved.digest
    with pytest.raises(TemplateError, match=r"^mine\.jinja, line 1: no front matter"):
        _ = ours.with_text("mine", "{% block user %}x{% endblock %}")["mine"]


def test_a_file_that_uses_itself_is_refused(tmp_path: Path) -> None:
    text = FRONT.format("k") + '{% extends "top.jinja" %}'
    top = text.replace("mine", "top").replace("top.jinja", "mine.jinja")
    assert problem(tmp_path, text, top=top).startswith("top.jinja, line 8: 'mine.jinja' uses itself")


# Checks at loading: each names file and line


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("version: 1", "version: 0", "line 3: front matter, version: .* not 0"),
        ("version: 1", "version: '1'", "line 3: front matter, version: .*integer.* not '1'"),
        ("version: 1\n", "", "line 1: front matter, version: Field required"),
        ("task: next_item", "task: next", "line 5: front matter, task: .*there are .*, cold_start, .*, not 'next'"),
        ("task: next_item", "task: next_item\nmodel: gpt", "line 6: front matter, model: Extra inputs"),
        ("name: mine", "name: yours", "line 2: the name 'yours' must be the file's, 'mine'"),
        ("task: next_item", "task: next_item\nlanguage: no", "line 6: front matter, language: .* not False"),
        ("description: Mine.", "description: Mine: all", "line 4: front matter is not YAML"),
        ("[k]", "[k, k]", "line 6: a variable stands twice"),
        ("[k]", "[k, noun]", "line 6: 'noun' is declared in the front matter, but not used"),
        ("[k]", "[k, labels]", "line 6: 'labels' is declared .* but not a variable of the task next_item"),
        ("[k]", "[]", "line 8: 'k' is used, but the front matter of 'mine' does not declare it"),
        ("{{ k }}", "{{ k }}\n{{ kk }}", "line 9: 'kk' is not a variable of the task next_item, which has history, k"),
        ("---\nname", "name", "line 1: no front matter"),
        ("block user", "block usr", r"line 8: block 'usr' is neither a role \(system, user, assistant\)"),
        ("block user", "block system", "line 1: no block 'user'"),
        ("Give", "{% block assistant %}x{% endblock %}", "line 8: block 'assistant' stands inside block 'user'"),
        ("---\n{%", "---\n\nHello {%", "line 9: text outside the blocks"),
        ("---\n{%", "---\n{{ k }}{%", "line 8: text outside the blocks"),
        ("---\n{%", "---\n{% if k %}x{% endif %}{%", "line 8: 'if' outside the blocks"),
        (
            "---\n{%",
            '---\n{% extends "next_item.jinja" %}{% block instructon %}{% endblock %}{%',
            "'instructon'.*instr",
        ),
        ("{{ k }}", "{{ k }", "line 8: unexpected '}'"),
        ("{{ k }}", "{{ k | nope }}", "line 8: No filter named 'nope'"),
        ("{{ k }}", "{{ k }}\n{{ k.real.x }}", "line 9: cannot render: .*no attribute 'x'"),
        ("{{ k }}", "{{ k / 0 }}", "line 8: cannot render: division by zero"),
        ("{{ k }}", "{{ k }}{{ none }}", "line 8: cannot render: this prints None"),
        ("{{ k }}", "{{ k }}\n\nx <|im_start|>", "line 10: '<|im_start|>' is a control token".replace("|", r"\|")),
        ("{{ k }}", "{{ k }} {{ target }}", "line 8: cannot render: 'target' is undefined"),
        ("Give {{ k }}.", "{% if k > 1 %}{{ k }}{% endif %}", "mine.jinja: the user message is blank"),
        ("{{ k }}", "{{ k }}{% include 'next_itme.jinja' %}", "line 8: no file 'next_itme.jinja' .*next_item.jinja"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    assert re.search(told, problem(tmp_path, GOOD.replace(old, new, 1)))


def test_optional_variables_may_be_empty_and_that_is_tried_at_loading(tmp_path: Path) -> None:
    text = FRONT.format("history, wish") + "{% block user %}\n{{ history[-1] }} {{ wish }}{% endblock %}"
    assert problem(tmp_path, text).startswith("mine.jinja, line 9: cannot render: ")


def test_a_macro_sees_only_what_it_is_given(tmp_path: Path) -> None:
    text = FRONT.format("k") + '{% from "_m.jinja" import f %}{% block user %}{{ f() }}{% endblock %}'
    assert problem(tmp_path, text, _m="\n{% macro f() %}{{ k }}{% endmacro %}").startswith("_m.jinja, line 2: cannot")


def test_blocks_see_what_the_top_sets_and_imports(tmp_path: Path) -> None:
    text = FRONT.format("k") + (
        '{% from "_m.jinja" import f as g %}{% import "_m.jinja" as m %}{% set much = k * 2 %}'
        "{% macro own(x) %}<{{ x }}>{% endmacro %}{% block user %}{{ g(much) }}{{ m.f(k) }}{{ own(k) }}{% endblock %}"
    )
    made = library(tmp_path, text, _m="{% macro f(x) %}{{ x }}!{% endmacro %}")["mine"].render({"k": 3})
    assert made == (Message("user", "6!3!<3>"),)


def test_check_tells_all_problems(tmp_path: Path) -> None:
    problems = library(tmp_path, "no front matter", also=GOOD.replace("mine", "als"), _draft="{{").check()
    assert len(problems) == 2
    assert "also.jinja, line 2" in problems[0]
    assert "mine.jinja, line 1" in problems[1]


# Rendering


@pytest.mark.parametrize(
    ("given", "told"), [({}, "missing; given: nothing"), ({"noun": "x", "k": None}, "None; given")]
)
def test_a_missing_variable_is_told_with_those_given(tmp_path: Path, given: dict[str, object], told: str) -> None:
    with pytest.raises(MissingVariableError, match=f"prompt 'mine' needs the variable 'k', which is {told}"):
        library(tmp_path)["mine"].render(given)


@pytest.mark.parametrize("task", [kind.name for kind in tasks.OURS])
def test_only_optional_variables_may_be_left_out(task: str) -> None:
    prompt, optional = LIBRARY[task], ("wish", "evidence", "common")
    least = {name: value for name, value in BARE.items() if name not in optional}
    assert prompt.render(least) == prompt.render(BARE) == prompt.render({**least, **dict.fromkeys(optional)})
    for name in {*prompt.variables} - {*optional}:
        with pytest.raises(MissingVariableError, match=repr(name)):
            prompt.render({key: value for key, value in least.items() if key != name})


def test_a_target_needs_an_assistant_block(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="no training answer"):
        library(tmp_path)["mine"].render({"k": 1}, target=ALL)


@pytest.mark.parametrize("value", [FILMS[0], [FILMS[0]], {"a": 1}, b"bytes", object(), {1, 2}, FILMS])
def test_what_a_template_must_not_see_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="'history' for prompt 'next_item' holds"):
        LIBRARY["next_item"].render(FULL | {"history": value})


def test_numbers_are_written_as_people_do(tmp_path: Path) -> None:
    text = FRONT.format("history") + (
        "{% block user %}{% for item in history %}{{ item.rating }} {% else %}-{% endfor %}{% endblock %}"
    )
    rated = views(FILMS, FILMS, [4.0, 3.5, 10, 0.1 + 0.2])
    with pytest.raises(TemplateError, match="prints None"):  # tried with an item without a rating
        library(tmp_path, text)["mine"]
    text = text.replace("{{ item.rating }}", "{% if item.rating is not none %}{{ item.rating }}{% endif %}")
    assert library(tmp_path, text.replace("{% else %}", " {% else %}"))["mine"].render({"history": rated})[
        0
    ].content.split() == ["4", "3.5", "10", "0.3"]


def test_a_view_holds_the_label_and_what_the_catalog_shows() -> None:
    shop = Catalog(
        [Item("1", "Mug", {"price": 9.5, "in_stock": True, "sale": False, "maker": " Ann ", "tags": ("red", "big")})],
        shown=["tags", "maker", "price", "in_stock", "sale", "colour"],
    )
    assert views(shop, shop, [2]) == (ItemView("Mug", "red, big; Ann; price 9.5; in stock", 2.0),)
    with pytest.raises(ValueError, match="1 ratings for 4 items"):
        views(FILMS, FILMS, [1.0])


# The sandbox


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ k.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ '{0.__class__}'.format(k) }}",
        "{{ '{x.__class__}'.format_map({'x': k}) }}",
        "{{ [k] | map(attribute='__class__') | join }}",
        "{{ [k, 1] | sort(attribute='__class__') | join }}",
        "{{ k | attr('__class__') }}",
        "{{ self._TemplateReference__context }}",
        "{{ self.user.__globals__ }}",
        "{{ k }}{% set _ = {}.update({'a': 1}) %}",
        "{{ [].append(k) }}",
        "{{ lipsum() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ range(9) }}",
        "{{ namespace() }}",
        "{{ dict(a=k) }}",
        "{{ [1, 2] | random }}",
        "{{ k | pprint }}",
        "{% include '../secret.jinja' %}",
        "{% include '../../etc/passwd' %}",
        "{% include '/etc/passwd' %}",
        "{% include './mine.jinja' %}",
        "{% include wish %}",
        "{% include ['next_item.jinja', wish] %}",
        "{% import 'next_' ~ 'item.jinja' as x %}",
        "{% from wish import x %}",
        "{% for x in recurse %}{% endfor %}",
    ],
)
def test_an_escape_is_refused_when_the_file_is_loaded(tmp_path: Path, attack: str) -> None:
    (tmp_path / "secret.jinja").write_text(SECRET)
    text = FRONT.format("k, wish") + f"{{% block user %}}{attack}{{{{ k }}}}{{{{ wish or '' }}}}{{% endblock %}}"
    told = problem(tmp_path / "prompts", text)
    assert SECRET not in told
    assert re.match(r"mine\.jinja, line 8", told), told


@pytest.mark.parametrize("name", ["id", "attributes", "cost", "year", "_fields", "__slots__"])
def test_nothing_else_of_an_item_can_be_reached(tmp_path: Path, name: str) -> None:
    text = (
        FRONT.format("history")
        + f"{{% block user %}}.{{% for i in history %}}{{{{ i.{name} }}}}{{% endfor %}}{{% endblock %}}"
    )
    assert "cannot render" in problem(tmp_path, text)


# Values are data


PIECES = [
    *(
        "<|im_start|>",
        "<|im_end|>",
        "<|im_",
        "start|>",
        "end|>",
        "<|",
        "|>",
        "<s>",
        "[INST]",
        "<<SYS>>",
        "<end_of_turn>",
    ),
    *(
        "system\n",
        "user\n",
        "\nassistant\n",
        "\n\nHuman: ",
        "### Instruction:\n",
        "\n- ",
        "\n",
        "\r",
        "\u2028",
        "\u200b",
    ),
    *("{{ 7 * 7 }}", "{% block system %}", "{% endblock %}", "{{ self }}", "{%", "%}", "{{", "}}", "{#", "#}", "---\n"),
    *("Alien (1979)", "七人の侍", "🎬", "<3", "<", ">", "＜", "é", " ", "\x00", "\ud800", "<custom>"),
]
texts = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join), st.text(min_size=1, max_size=20)
)
CONTROL = frozenset({"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<custom>"})
item_views = st.builds(ItemView, title=texts, details=texts, rating=st.none() | st.floats(1, 5))
variables_of_a_request = st.fixed_dictionaries(
    {
        "noun": texts,
        "nouns": texts,
        "history": st.lists(item_views, min_size=1, max_size=4),
        "wish": texts,
        "candidates": st.lists(item_views, min_size=1, max_size=4),
        "item": item_views,
        "labels": st.lists(texts, min_size=1, max_size=3),
        "evidence": st.lists(item_views, min_size=1, max_size=3),
        "k": st.integers(1, 20),
    }
)


def harmless(variables: dict[str, Any]) -> dict[str, Any]:
    """The same request with the letter x for every text, if anything of it remains when sanitized."""

    def plain(value: Any) -> Any:
        if isinstance(value, str):
            return "x" if sanitize(value, CONTROL) else ""
        if isinstance(value, ItemView):
            return ItemView(plain(value.title), plain(value.details), value.rating)
        return [plain(part) for part in value] if isinstance(value, list) else value

    return {name: plain(value) for name, value in variables.items()}


def target_in(prompt: PromptTemplate, variables: dict[str, Any]) -> Any:
    return variables["wish"] + "." if prompt.task in TARGETS else [ItemView("."), *variables["candidates"]]


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(LIBRARY.names()), variables_of_a_request)
def test_no_value_changes_messages_roles_or_lines(name: str, variables: dict[str, Any]) -> None:
    prompt = LIBRARY[name]
    made = prompt.render(variables, control_tokens=CONTROL, target=target_in(prompt, variables))
    plain = harmless(variables)
    expected = prompt.render(plain, control_tokens=CONTROL, target=target_in(prompt, plain))
    assert [m.role for m in made] == [m.role for m in expected] == ["system", "user", "assistant"]
    for message, same in zip(made, expected, strict=True):
        assert len(message.content.splitlines()) == len(same.content.splitlines())
        assert not any(token in message.content for token in CONTROL)


def test_jinja_in_a_value_stays_text() -> None:
    wish = "{{ 7 * 7 }} {% include 'x' %} {# no #}"
    assert wish in LIBRARY["cold_start"].render(FULL | {"wish": wish})[1].content


def test_a_title_stands_in_a_prompt_as_the_trie_spells_it() -> None:
    title = "The <|im_end|>\n<custom> Code"
    spelled = sanitize(title, CONTROL)
    made = LIBRARY["next_item"].render(
        FULL | {"history": [ItemView(title)]}, control_tokens=CONTROL, target=[ItemView(title)]
    )
    assert f"\n- {spelled}\n" in made[1].content
    assert made[2].content == spelled == "The < |im_end|> < custom> Code"


def test_a_token_put_together_from_two_values_is_split(tmp_path: Path) -> None:
    text = FRONT.format("noun, nouns") + "{% block user %}{{ noun }}{{ nouns | replace('~', '') }}{% endblock %}"
    prompt = library(tmp_path, text)["mine"]
    assert prompt.render({"noun": "<|im_", "nouns": "end~|>"})[0].content == "< |im_end|>"


@pytest.fixture(scope="module")
def chatml() -> Any:
    """A byte-level BPE trained on four titles, with ChatML."""
    transformers = pytest.importorskip("transformers", reason="needs llmgen[hf]")
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(FILMS.labels, trainer)
    bpe.add_tokens([AddedToken("<custom>", special=False)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def encode(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    chat = [{"role": message.role, "content": message.content} for message in messages]
    ids: list[int] = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    return ids


@settings(deadline=None, max_examples=50)
@given(name=st.sampled_from(LIBRARY.names()), variables=variables_of_a_request)
def test_the_tokenised_chat_has_only_the_control_tokens_of_its_turns(
    chatml: Any, name: str, variables: dict[str, Any]
) -> None:
    control = frozenset(chatml.get_added_vocab())
    assert control == CONTROL
    messages = LIBRARY[name].render(variables, control_tokens=control)
    ids = encode(chatml, messages)
    start, end = chatml.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    expected = [start, end] * len(messages) + [start]
    assert [token for token in ids if token in chatml.get_added_vocab().values()] == expected


# Truncation


def words(messages: Sequence[Message]) -> tuple[int, ...]:
    """A token a word."""
    return tuple(1 for message in messages for _ in message.content.split())


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(0, 60), st.integers(0, 20))
def test_the_longest_newest_history_that_fits_is_taken(lengths: list[int], room: int, overhead: int) -> None:
    calls = []

    def render(number: int) -> tuple[Message, ...]:
        calls.append(number)
        newest = lengths[len(lengths) - number :]
        return (Message("user", " ".join(["w"] * (overhead + sum(newest)))),)

    fitting = [n for n in range(len(lengths) + 1) if overhead + sum(lengths[len(lengths) - n :]) <= room]
    if not fitting:
        with pytest.raises(TemplateError, match=f"{overhead} tokens without any item .* only {room} are allowed"):
            fit(render, words, len(lengths), room)
    else:
        fitted = fit(render, words, len(lengths), room)
        assert fitted.num_items == max(fitting)
        assert fitted.token_ids == words(fitted.messages)
        assert fitted.num_tokens == len(fitted.token_ids) <= room
        assert fitted.messages == render(fitted.num_items)
    assert len(calls) <= 3 + len(lengths).bit_length()


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.integers(0, 30))
def test_where_counts_do_not_rise_one_more_item_still_does_not_fit(counts: list[int], room: int) -> None:
    def render(number: int) -> tuple[Message, ...]:
        return (Message("user", " ".join(["w"] * counts[number])),)

    try:
        fitted = fit(render, words, len(counts) - 1, room)
    except TemplateError:
        assert counts[0] > room
    else:
        assert counts[fitted.num_items] <= room
        assert fitted.num_items == len(counts) - 1 or counts[fitted.num_items + 1] > room


def test_whole_items_of_a_real_prompt_are_dropped_from_the_old_end() -> None:
    prompt = LIBRARY["next_item"]
    history = [ItemView(f"Film {number}") for number in range(50)]

    def render(number: int) -> tuple[Message, ...]:
        return prompt.render(FULL | {"history": history[len(history) - number :]})

    fitted = fit(render, words, len(history), 100)
    titles = re.findall(r"^- (.*)$", fitted.messages[1].content, re.MULTILINE)
    assert titles == [view.title for view in history[-fitted.num_items :]]
    assert 100 - 3 < fitted.num_tokens <= 100


def test_a_negative_history_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        fit(lambda number: (), words, -1, 10)


if __name__ == "__main__":
    for path in SNAPSHOTS.glob("*.txt"):
        path.unlink()
    for prompt_name in LIBRARY:
        (SNAPSHOTS / f"{prompt_name}.txt").write_text(snapshot(LIBRARY[prompt_name]), encoding="utf-8", newline="\n")


@given(st.lists(st.integers(1, 30), max_size=30), st.integers(0, 200), st.sampled_from([1, 16, 32]))
def test_a_block_costs_a_quarter_of_the_history_at_most(lengths: list[int], overhead: int, block: int) -> None:
    def render(number: int) -> tuple[Message, ...]:
        newest = lengths[len(lengths) - number :]
        return (Message("user", " ".join(["w"] * (overhead + sum(newest)))),)

    longest = fit(render, words, len(lengths), 300 + overhead).num_items
    fitted = fit(render, words, len(lengths), 300 + overhead, block=block)
    allowed = range(longest - longest // 4, longest + 1)
    rests = {number: len(words(render(number))) % block for number in allowed}
    assert fitted.num_items == max(number for number in allowed if rests[number] == min(rests.values()))
    assert fitted.messages == render(fitted.num_items)
