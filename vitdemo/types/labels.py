"""The embedded models' classes in everyday words, and the names of the data set's folders that mean the same.

Caltech-101 calls a class `water_lilly`, `car_side` or `airplanes`. The models say "water lily", "car" and "airplane"; wherever a
class is read, from a folder or from a user, the old names are understood, too.
"""

from __future__ import annotations

from collections.abc import Collection

EVERYDAY = {
    "airplanes": "airplane",
    "bass": "bass (fish)",
    "binocular": "binoculars",
    "buddha": "Buddha",
    "car side": "car",
    "cellphone": "cell phone",
    "cougar body": "cougar",
    "faces": "face",
    "garfield": "Garfield",
    "hawksbill": "sea turtle",
    "headphone": "headphones",
    "inline skate": "inline skates",
    "joshua tree": "Joshua tree",
    "leopards": "leopard",
    "lotus": "lotus flower",
    "motorbikes": "motorbike",
    "rhino": "rhinoceros",
    "sea horse": "seahorse",
    "snoopy": "Snoopy",
    "stegosaurus": "Stegosaurus",
    "brontosaurus": "Brontosaurus",
    "water lilly": "water lily",
    "wild cat": "wildcat",
    "windsor chair": "Windsor chair",
    "yin yang": "yin and yang",
}
"""Folder names of Caltech-101, underscores as spaces, to what people say."""

_OLD = {new: old for old, new in EVERYDAY.items()}


def spellings(label: str) -> tuple[str, ...]:
    """A label, and its name in Caltech-101 if that differs.

    >>> spellings("water lily"), spellings("crab")
    (('water lily', 'water lilly'), ('crab',))
    """
    return (label, _OLD[label]) if label in _OLD else (label,)


def class_called(name: str, classes: Collection[str]) -> str:
    """The one of these classes that a name means, or the name itself if it means none.

    >>> class_called("car side", ["car", "crab"]), class_called("car side", ["car side"]), class_called("yak", ["car"])
    ('car', 'car side', 'yak')
    """
    if name not in classes and EVERYDAY.get(name) in classes:
        return EVERYDAY[name]
    return name
