"""Bundles: zip files of which bytes are damaged, and ones that are put together from foreign names, links and sizes."""

from __future__ import annotations

import io
import json
import shutil
import stat
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.fuzz.fuzzing import Target
from workloads.run_folder.bundle import NEEDED, unpack

FORMS = [{"name": f"run/{name}", "content": "x"} for name in NEEDED] + [{"name": "run/media/a.mkv", "content": "y" * 50, "mode": 0o100644}]


def targets(place: Path) -> list[Target]:
    content = (ROOT / "tests/metrics/report/bundles/vlm.zip").read_bytes()
    out = place / "out"

    def read(name: str, damaged: bytes) -> None:
        bundle = place / "run.zip"
        if name == "members.json":
            try:
                damaged = _zipped(json.loads(damaged))
            except (ValueError, RecursionError):  # no list of members
                return
        bundle.write_bytes(damaged)
        before = {path for path in place.rglob("*") if path != bundle}
        try:
            unpack(bundle, out)
        finally:
            shutil.rmtree(out, ignore_errors=True)
        assert {path for path in place.rglob("*") if path != bundle} == before, "files were written beside the folder"

    return [Target("bundle", {"run.zip": content, "members.json": json.dumps({"members": FORMS}).encode()}, read, 6)]


def _zipped(form: Any) -> bytes:
    """A zip file with the members that a damaged list describes, as far as a zip file can hold them."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for member in form.get("members", ()) if isinstance(form, Mapping) and isinstance(form.get("members"), list) else ():
            if isinstance(member, Mapping):
                info = zipfile.ZipInfo("x")
                info.filename = str(member.get("name")).encode("utf-8", "replace").decode()[:60_000]
                info.external_attr = (member["mode"] if isinstance(member.get("mode"), int) else stat.S_IFREG) % 2**16 << 16
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a name that is there twice
                    archive.writestr(info, str(member.get("content")).encode("utf-8", "replace"))
    return content.getvalue()
