"""The one text normalisation: exact match, BM25 and grounding all see titles through this file."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

# Dropped in front of a title. English only: "Die Hard", "La Bamba" and "Das Boot" would lose a word that tells them
# from other titles, and a reader of those languages does not leave the article out.
_DROPPED_ARTICLES = frozenset({"the", "a", "an"})
# Moved to the front from where library catalogs put them: "Postino, Il", "Blechtrommel, Die", "Avventura, L'".
_MOVED_ARTICLES = (
    "the|a|an|le|la|les|l['’]|un|une|il|lo|i|gli|uno|una|el|los|las|un[ao]s|der|die|das|den|det|de|het|een|ein|eine"
    "|en|ett|et|o|os|as|um|uma"
)
_TRAILING_ARTICLE = re.compile(rf" *({_MOVED_ARTICLES}) *", re.I)
_PARENTHESES = re.compile(r"([()\[\]])")
# Letters that Unicode does not take apart into a base and an accent.
_LATIN_LETTERS = str.maketrans(
    {"ø": "o", "đ": "d", "ł": "l", "æ": "ae", "œ": "oe", "ı": "i", "þ": "th", "ð": "d", "ħ": "h", "ŧ": "t", "ŋ": "n"}
)
_SIGNS = str.maketrans({"™": " ", "®": " ", "©": " ", "&": " and ", "+": " plus "})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_SHARP = re.compile(r"(?<=[^\W\d_])#")  # "C#" is not "C"
_ACRONYM = re.compile(r"(?<!\w)[^\W\d_](?:[.*·][^\W\d_])+(?!\w)")  # E.T., L.A., M*A*S*H
_APOSTROPHE = re.compile(r"(?<=\w)['’‘ʼ`´](?=\w)")  # not in "Rock 'n' Roll"

_BRACKETED_YEAR = re.compile(r"[\s,]*[(\[]\s*((?:1[89]|20)\d\d)\s*[)\]]\s*$")
_BARE_YEAR = re.compile(r"(?<=[^\s,\-–—/])(?:\s*,\s*|\s+[-–—/]\s+|\s+)((?:1[89]|20)\d\d)\s*$")

_NUMBERING = re.compile(
    r"""^\s*(?:
        [-*•‣◦·–—+>▪●○■□✓✔➤→]\s+                       # bullets and quotes
      | \#?\d{1,4}[.)]\s+ | \d{1,3}[.)](?=[^\W\d])       # 1. Alien, 1.Alien
      | \d{1,3}\s*(?:[、．）]|[:：]\s*(?=\S)|\s[-–—]\s)    # 1、异形, 1: Alien, 1 - Alien
      | \#\d{1,3}[:：]?\s+                               # #1 Alien
      | [(（［【\[]\d{1,2}[)）］】\]][.:：]?\s*             # (1) Alien, [1] Alien, 【1】异形
      | [①-⑳]\s*
      | 第?[一二三四五六七八九十]{1,3}[、：:.．]\s*         # 一、异形
      | [a-zA-Z]\)\s+
      | (?:no\.?|nr\.?|number|title|film|movie|item|product|song|book|pick|choice|recommendation|电影|推荐)
        \s*\#?\d{0,3}\s*[:：]\s*                        # Title: Alien, Film 1: Alien
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_LEVELS = 3  # of numbering: "- **1.** Title: Alien"
_QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“", "‘": "’", "«": "»", "「": "」", "『": "』", "《": "》", "`": "`"}
_MARKUP = ("***", "**", "__", "*", "_", "`")
_COMMENT_AFTER_YEAR = re.compile(r"([(\[](?:1[89]|20)\d\d[)\]])[\"'”’»」』》*_`]*\s*(?:[-–—:|.,;]|\().*$", re.S)
_DASH = re.compile(r"\s+[-–—|]{1,2}\s+|:\s+")
_COMMENT_WORDS = 6  # a subtitle after a dash is shorter in all but 3 of the 9,742 titles of ml-latest-small

_ENTITY = re.compile(r"&(#[0-9]+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")
_LEVELS_OF_ENTITIES = 10  # what a page encodes twice is met in the wild, ten times is not
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")  # all but white space

# Scripts that are written without spaces: Thai, Lao, Burmese, Khmer, kana, Han.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)


class Plain(NamedTuple):
    """A text as a reader sees it, and what had to be done for it."""

    text: str
    decoded: bool
    stripped: bool


def plain(text: str) -> Plain:
    """A text with its HTML entities decoded, also those encoded several times, and without control characters.

    White space stays. What is plain already comes back as it is.

    >>> plain("AT&amp;T &amp;quot;phone&amp;quot;").text, plain("R&D &copy").text
    ('AT&T "phone"', 'R&D &copy')
    """
    seen = text
    for _ in range(_LEVELS_OF_ENTITIES):
        before = seen
        if "&" in seen:
            seen = _ENTITY.sub(lambda entity: html.unescape(entity.group()), seen)
        if seen == before:
            break
    clear = without_controls(seen)
    return Plain(clear, seen != text, clear != seen)


def without_controls(text: str) -> str:
    """A text that a terminal shows and does not obey: without control characters, but with its white space."""
    return _CONTROL.sub("", text)


class TitleYear(NamedTuple):
    """A title without its year, and the year."""

    title: str
    year: int | None


def normalise_text(text: str) -> str:
    """The matching key of a title: equal for texts that name the same thing.

    HTML entities, compatibility forms, case, Latin and Greek accents, punctuation, white space, the place of an
    article and a leading English article make no difference; letters of every script, their vowel signs, digits and
    emoji do. `&` is `and`, `+` is `plus`; an apostrophe inside a word and the dots of an acronym vanish.

    Args:
        text: Any string.

    Returns:
        Words separated by single spaces. Empty only if `text` holds nothing visible: a title of nothing but
        punctuation or articles is its own key.

    >>> normalise_text("Matrix, The") == normalise_text("the  MATRIX") == normalise_text("Matrix") == "matrix"
    True
    >>> [normalise_text(text) for text in ("Misérables, Les", "E.T. &amp; Friends", "!!!", "The")]
    ['les miserables', 'et and friends', '!!!', 'the']
    """
    plain = html.unescape(text)
    folded = _fold(plain)
    words = "".join(_visible(_APOSTROPHE.sub("", folded))).split()
    if words:
        first = next((i for i, word in enumerate(words) if word not in _DROPPED_ARTICLES), len(words) - 1)
        return unicodedata.normalize("NFC", " ".join(words[first:]))
    return " ".join(unicodedata.normalize("NFKC", plain).casefold().split())


def tokens(text: str) -> list[str]:
    """The words of a text for BM25, normalised, in order and with repeats.

    Runs of a script without spaces (Chinese, Japanese, Thai) become overlapping pairs of characters.

    >>> tokens("Toy Story 2"), tokens("黑客帝国"), tokens("")
    (['toy', 'story', '2'], ['黑客', '客帝', '帝国'], [])
    """
    return split_key(normalise_text(text))


def split_key(key: str) -> list[str]:
    """`tokens` of a text that is normalised already."""
    found: list[str] = []
    for word in key.split():
        if word.isascii():
            found.append(word)
            continue
        end = 0
        for run in _UNSPACED.finditer(word):
            found += [word[end : run.start()]] if run.start() > end else []
            characters = run.group()
            found += [characters[i : i + 2] for i in range(max(1, len(characters) - 1))]
            end = run.end()
        found += [word[end:]] if end < len(word) else []
    return found


def split_year(text: str, *, bare: bool = True) -> TitleYear:
    """Take a year of 1800 to 2099 off the end of a title.

    In brackets it is certainly a year. Bare it may be part of the title (`Death Race 2000`): look for the whole title
    first, or ask for bracketed years only with `bare=False`. A title that is nothing but a year keeps it.

    >>> split_year("Alien (1979)"), split_year("Alien, 1979"), split_year("1984")
    (TitleYear(title='Alien', year=1979), TitleYear(title='Alien', year=1979), TitleYear(title='1984', year=None))
    """
    text = text.strip()
    for pattern in (_BRACKETED_YEAR, _BARE_YEAR) if bare else (_BRACKETED_YEAR,):
        found = pattern.search(text)
        if found and found.start() > 0:
            return TitleYear(text[: found.start()], int(found.group(1)))
    return TitleYear(text, None)


def clean_line(line: str) -> str:
    """The title in one line of a model's answer.

    List numbering, bold or italic marks, surrounding quotes and a trailing comment go. A comment follows a year in
    brackets; or a dash, if it starts in lower case or has six words or more; or a colon, if both. A shorter tail
    (`Mission: Impossible - Fallout`) stays, since it may be the title's own.

    >>> clean_line('1. **"Alien" (1979)** - A crew wakes up.'), clean_line("- 12 Angry Men")
    ('Alien (1979)', '12 Angry Men')
    """
    return cleaned(line)[-1]


def cleaned(line: str) -> list[str]:
    """A line of a model's answer, cleaned step by step; the last one is `clean_line`.

    What looks like numbering may be the title's own (`2001: A Space Odyssey`), so what stands between is worth a look.

    >>> cleaned("**1. 9: The Last Resort**")
    ['1. 9: The Last Resort', '9: The Last Resort', 'The Last Resort']
    """
    line = _cell(" ".join(line.split()))
    steps: list[str] = []
    for level in range(_LEVELS + 1):
        numbering = _NUMBERING.match(line)
        if level == 0 and numbering is None:
            line = _unwrap(line)
            numbering = _NUMBERING.match(line)
        steps.append(_without_comment(line))
        if level == _LEVELS or numbering is None or numbering.end() >= len(line):
            break
        line = _unwrap(line[numbering.end() :])
    return list(dict.fromkeys(steps))


def _cell(line: str) -> str:
    """The first cell of a row of a table that is not a number; any other line as it is."""
    if not (line.startswith("|") and line.endswith("|") and len(line) > 1):
        return line
    return next((cell for part in line.split("|") if (cell := part.strip()) and not cell.rstrip(".").isdigit()), line)


def _without_comment(line: str) -> str:
    line = _unwrap(line)
    line = _COMMENT_AFTER_YEAR.sub(r"\1", line)
    for dash in _DASH.finditer(line):
        tail = line[dash.end() :]
        signs = (tail[:1].islower(), tail.count(" ") >= _COMMENT_WORDS - 1)
        if dash.start() > 0 and (all(signs) if dash.group().startswith(":") else any(signs)):
            line = line[: dash.start()]
            break
    return _unwrap(line)


def _fold(text: str) -> str:
    """Case, accents, articles and signs folded; punctuation still there."""
    text = "".join(f" {c}" if unicodedata.category(c) == "No" else c for c in text.translate(_SIGNS))  # 8½, Alien³
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(map(_article_to_front, _PARENTHESES.split(" ".join(text.split()))))
    text = _SHARP.sub(" sharp ", _THOUSANDS.sub("", text))
    text = _ACRONYM.sub(lambda found: re.sub(r"[.*·]", "", found.group()), text)
    return _without_accents(text).translate(_LATIN_LETTERS)


def _article_to_front(part: str) -> str:
    """`matrix, the` -> `the matrix`, for one part between parentheses."""
    title, comma, last = part.rpartition(",")
    article = _TRAILING_ARTICLE.fullmatch(last)
    if not comma or not title.strip() or article is None:
        return part
    gap = "" if article.group(1).endswith(("'", "’")) else " "
    return f" {article.group(1)}{gap}{title.strip()} "


def _without_accents(text: str) -> str:
    """Marks on Latin and Greek letters removed, and the dots of Cyrillic ё; the marks of other scripts are letters."""
    if text.isascii():
        return text
    kept: list[str] = []
    base = ""
    for character in unicodedata.normalize("NFKD", text.replace("ё", "е")):
        if unicodedata.combining(character):
            if not base:
                base = _script(kept[-1]) if kept else "OTHER"
            if base in ("LATIN", "GREEK"):
                continue
        else:
            base = ""
        kept.append(character)
    return unicodedata.normalize("NFC", "".join(kept))


def _script(character: str) -> str:
    return unicodedata.name(character, "OTHER").split()[0]


def _visible(text: str) -> Iterator[str]:
    """Letters, marks and digits as they are, emoji as words of their own, anything else as a space."""
    for character in text:
        if character.isascii():
            yield character if character.isalnum() else " "
            continue
        category = unicodedata.category(character)
        if category[0] in "LMN":
            yield "" if "\ufe00" <= character <= "\ufe0f" else character  # text or picture form of the same emoji
        elif category == "So":
            yield f" {character} "
        elif category != "Cf":  # zero-width characters vanish
            yield " "


def _unwrap(line: str) -> str:
    """Pairs of quotes and emphasis marks around the line, or around the title in front of its year, removed."""
    before = None
    while line != before:
        before = line
        line = line.strip().rstrip(",;").strip()
        for mark in _MARKUP:
            end = line.find(mark, len(mark))
            if line.startswith(mark) and end > len(mark):
                line = line[len(mark) : end] + line[end + len(mark) :]
        closing = _QUOTES.get(line[:1])
        if closing is not None:
            end = line.find(closing, 1)
            if end > 1 and (end == len(line) - 1 or not line[end + 1].isalnum()):
                line = line[1:end] + line[end + 1 :]
    return line
