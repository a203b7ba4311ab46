"""A built-in data set of texts: names of things in about a hundred languages of Latin script.

The names (of languages, countries, scripts, currencies, units, months and days) are those of Unicode's CLDR, from the
package `Babel` (extra `[text]`); a name that several languages share is left out.
"""

import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any

from upstairs.data.cache import Progress
from upstairs.data.source import InputFormat, Source
from upstairs.data.text.hashed import text_source
from upstairs.errors import UpstairsError

LEAST = 60  # fewest names of a language that is a class


def language_source(format: InputFormat | None = None, progress: Progress | None = None) -> Source:
    """Returns a source of names, whose classes are languages (see `text_source`).

    Raises:
        UpstairsError: Babel is not installed.
    """
    names = names_by_language()
    owners: dict[str, int] = {}
    for own in names.values():
        for name in own:
            owners[name] = owners.get(name, 0) + 1
    single = {language: sorted(name for name in own if owners[name] == 1) for language, own in names.items()}
    pairs = [(name, language) for language, own in sorted(single.items()) if len(own) >= LEAST for name in own]
    texts, labels = zip(*pairs, strict=True)
    return text_source(texts, labels, name="languages", format=format, progress=progress)


def names_by_language() -> dict[str, set[str]]:
    """Returns all names of things of each language of Latin script."""
    try:
        from babel import Locale, localedata
    except ImportError as error:
        raise UpstairsError("`data` languages needs Babel: pip install 'upstairs[text]'") from error
    found = {}
    for identifier in localedata.locale_identifiers():
        if "_" not in identifier and identifier != "root":
            locale = Locale.parse(identifier)
            own = {name for name in _names(locale) if len(name) >= 4 and any(c.isalpha() for c in name)}
            if own and sum(map(_is_latin, own)) > 0.9 * len(own):
                found[locale.english_name or identifier] = {name for name in own if _is_latin(name)}
    return found


def _names(locale: Any) -> Iterable[str]:
    for table in (locale.languages, locale.territories, locale.scripts, locale.currencies, locale.variants):
        yield from table.values()
    for table in (locale.months, locale.days, locale.quarters):
        for forms in table.values():
            for names in forms.values():
                yield from names.values()
    for forms in locale.unit_display_names.values():
        yield from forms.values()


def _is_latin(text: str) -> bool:
    return all(map(_may_be_latin, set(text)))


@cache
def _may_be_latin(sign: str) -> bool:
    return not sign.isalpha() or "LATIN" in unicodedata.name(sign, "")
