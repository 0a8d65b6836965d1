"""Package versions that a run requires, such as {torch: "2.13", diffusers: ">=0.42,<0.44"}."""

from __future__ import annotations

from collections.abc import Mapping

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version


def check_versions(required: object) -> object:
    """Return the mapping unchanged. Raises ValueError naming the package whose version cannot be parsed."""
    if not isinstance(required, Mapping):
        return required
    for name, text in required.items():
        if not isinstance(text, str):
            raise ValueError(f"the version of {name!r} must be a string, got {text!r}: as numbers 2.1 and 2.10 are equal. Put it in quotes")
        try:
            _specifier(text)
        except (InvalidSpecifier, InvalidVersion):
            raise ValueError(f"the version of {name!r} is {text!r}; write 2.13 (any 2.13.x) or a specifier such as >=0.42,<0.44") from None
    return required


def is_met(required: str, version: str) -> bool:
    """Whether the version satisfies the requirement. Pre-releases do, too; a local part such as +cpu is compared only if required.

    A version that PEP 440 does not define must be equal.
    """
    try:
        return _specifier(required).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return version == required


def _specifier(text: str) -> SpecifierSet:
    """A bare version such as 2.13 means any 2.13.x; one with a pre-release, post-release or local part means itself alone."""
    if not text.strip()[:1].isdigit():
        return SpecifierSet(text if text.strip() else "no version")
    version = Version(text)
    ends = version.local is not None or version.is_prerelease or version.is_postrelease
    return SpecifierSet(f"=={version}" if ends else f"=={text.strip()}.*")
