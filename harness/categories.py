"""Which categories of which dataset are meant: by name, by list or by pattern."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from harness.show import alike


class Named(NamedTuple):
    """A dataset as far as its categories are chosen; two datasets may have one name.

    Attributes
    ----------
    name : str
        The dataset's name.
    categories : tuple of str
        All that it has.
    """

    name: str
    categories: tuple[str, ...]


class CategoryError(ValueError):
    """A category that no dataset of the sweep has, or a pattern that matches none."""


def name_categories(
    names: Sequence[str] | None, datasets: Collection[Named]
) -> dict[Named, list[str]]:
    """Return the named categories that each dataset has.

    Parameters
    ----------
    names : sequence of str or None
        As given; None where nothing was given.
    datasets : collection of Named
        The datasets of the sweep.

    Raises
    ------
    CategoryError
        If nothing was named, or a name belongs to no dataset: in one line what was given, the
        nearest name and the valid ones.

    Examples
    --------
    >>> mvtec, btad = Named("mvtec", ("bottle", "cable")), Named("btad", ("01", "02"))
    >>> list(name_categories(["bottle", "01"], [mvtec, btad]).values())
    [['bottle'], ['01']]
    >>> name_categories(["botle"], [mvtec])
    Traceback (most recent call last):
    ...
    harness.categories.CategoryError: category='botle' is not in dataset mvtec; \
did you mean 'bottle'? Choose from: bottle, cable
    """
    if names is None:
        raise CategoryError(f"category must be given. {_choices(datasets)}")
    for name in names:
        if not any(name in dataset.categories for dataset in datasets):
            raise CategoryError(_unknown(name, datasets))
    return {own: [name for name in names if name in own.categories] for own in datasets}


def match_categories(
    match: Callable[[list[str]], list[str]], datasets: Collection[Named]
) -> dict[Named, list[str]]:
    """Return the categories of each dataset that a pattern matches.

    Parameters
    ----------
    match : callable
        Takes the names and returns those that match, in their order.
    datasets : collection of Named
        The datasets of the sweep.

    Raises
    ------
    CategoryError
        If the pattern matches no category of any dataset.
    """
    matched = {dataset: match(list(dataset.categories)) for dataset in datasets}
    if not any(matched.values()):
        raise CategoryError(f"category=glob(...) matches no category. {_choices(datasets)}")
    return matched


def _unknown(name: str, datasets: Collection[Named]) -> str:
    every = [category for dataset in datasets for category in dataset.categories]
    near = get_close_matches(name, every, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    names = ", ".join(dict.fromkeys(dataset.name for dataset in datasets))
    given = f"category={name!r}{alike(name, every)}"
    return f"{given} is not in dataset {names}{hint} {_choices(datasets)}"


def _choices(datasets: Collection[Named]) -> str:
    every = dict.fromkeys(name for dataset in datasets for name in dataset.categories)
    return "Choose from: " + ", ".join(every)
