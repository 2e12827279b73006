"""Which categories of which dataset are meant: by name, by list or by pattern."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches

from harness.show import alike

Categories = Mapping[str, Sequence[str]]
"""The categories of each dataset, by the dataset's name."""


class CategoryError(ValueError):
    """A category that no dataset of the sweep has, or a pattern that matches none."""


def name_categories(names: Sequence[str] | None, categories: Categories) -> dict[str, list[str]]:
    """Return the named categories that each dataset has.

    Parameters
    ----------
    names : sequence of str or None
        As given; None where nothing was given.
    categories : mapping of str to sequence of str
        The categories of each dataset.

    Raises
    ------
    CategoryError
        If nothing was named, or a name belongs to no dataset: in one line what was given, the
        nearest name and the valid ones.

    Examples
    --------
    >>> datasets = {"mvtec": ["bottle", "cable"], "btad": ["01", "02"]}
    >>> name_categories(["bottle", "01"], datasets)
    {'mvtec': ['bottle'], 'btad': ['01']}
    >>> name_categories(["botle"], {"mvtec": ["bottle", "cable"]})
    Traceback (most recent call last):
    ...
    harness.categories.CategoryError: category='botle' is not in dataset mvtec; \
did you mean 'bottle'? Choose from: bottle, cable
    """
    if names is None:
        raise CategoryError(f"category must be given. {_choices(categories)}")
    for name in names:
        if not any(name in own for own in categories.values()):
            raise CategoryError(_unknown(name, categories))
    return {dataset: [name for name in names if name in own] for dataset, own in categories.items()}


def match_categories(
    match: Callable[[list[str]], list[str]], categories: Categories
) -> dict[str, list[str]]:
    """Return the categories of each dataset that a pattern matches.

    Parameters
    ----------
    match : callable
        Takes the names and returns those that match, in their order.
    categories : mapping of str to sequence of str
        The categories of each dataset.

    Raises
    ------
    CategoryError
        If the pattern matches no category of any dataset.
    """
    matched = {dataset: match(list(own)) for dataset, own in categories.items()}
    if not any(matched.values()):
        raise CategoryError(f"category=glob(...) matches no category. {_choices(categories)}")
    return matched


def _unknown(name: str, categories: Categories) -> str:
    every = [category for own in categories.values() for category in own]
    near = get_close_matches(name, every, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    datasets = ", ".join(categories)
    given = f"category={name!r}{alike(name, every)}"
    return f"{given} is not in dataset {datasets}{hint} {_choices(categories)}"


def _choices(categories: Categories) -> str:
    return "Choose from: " + ", ".join(name for own in categories.values() for name in own)
