"""Which versions of packages a run asks for: {torch: "2.13", diffusers: ">=0.42,<0.44"}."""

from __future__ import annotations

from collections.abc import Mapping

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version


def checked(wanted: object) -> object:
    """The mapping as it is. Raises ValueError naming the package whose version is none."""
    if not isinstance(wanted, Mapping):
        return wanted
    for name, text in wanted.items():
        if not isinstance(text, str):
            raise ValueError(f"the version of {name!r} is {text!r}, a number, of which 2.1 and 2.10 are the same; put it in quotes")
        try:
            _specifier(text)
        except (InvalidSpecifier, InvalidVersion):
            raise ValueError(f"the version of {name!r} is {text!r}; write 2.13 (any 2.13.x), or a specifier such as >=0.42,<0.44") from None
    return wanted


def is_met(wanted: str, version: str) -> bool:
    """Pre-releases count; a local part such as +cpu matters where `wanted` has one. A version that is none of Python's must be equal."""
    try:
        return _specifier(wanted).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return version == wanted


def _specifier(text: str) -> SpecifierSet:
    """Of a bare version: any that begins with it, and that one alone where nothing can follow."""
    if not text.strip()[:1].isdigit():
        return SpecifierSet(text if text.strip() else "no version")
    version = Version(text)
    ends = version.local is not None or version.is_prerelease or version.is_postrelease
    return SpecifierSet(f"=={version}" if ends else f"=={text.strip()}.*")
