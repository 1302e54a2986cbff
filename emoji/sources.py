"""Where the pictures and names come from: npm packages, pinned, all openly licensed.

A picture is found by its Unicode code points ("1F469-200D-1F692"). Iconify sets name their
pictures by slug instead; `slugs` turns a code point sequence into every slug we know for it.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
import tempfile
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

NAMES_PACKAGE = "emojibase-data@17.0.0"  # labels, tags and skin tones of Unicode CLDR; MIT
SLUG_PACKAGES = ("@iconify-json/noto@1.2.9", "@iconify-json/twemoji@1.2.5", "@iconify-json/fluent-emoji-flat@1.2.6")
UNSAFE_FILL = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class Style:
    """One drawing style: its caption words, its package, and whom to thank."""

    key: str
    words: str
    package: str
    licence: str
    author: str


STYLES: dict[str, Style] = {
    style.key: style
    for style in (
        Style("noto", "Noto style", "@iconify-json/noto@1.2.9", "Apache-2.0", "Google Inc"),
        Style("blob", "blob style", "@iconify-json/noto-v1@1.2.5", "Apache-2.0", "Google Inc"),
        Style("3d", "3D style", "@lobehub/fluent-emoji-3d@1.1.0", "MIT", "Microsoft Corporation"),
        Style("glossy", "glossy style", "@iconify-json/fluent-emoji@1.2.7", "MIT", "Microsoft Corporation"),
        Style("flat", "flat style", "@iconify-json/fluent-emoji-flat@1.2.6", "MIT", "Microsoft Corporation"),
        Style("twemoji", "Twemoji style", "@iconify-json/twemoji@1.2.5", "CC-BY-4.0", "Twitter, Inc and contributors"),
        Style("emojione", "EmojiOne style", "@iconify-json/emojione@1.2.3", "CC-BY-4.0", "Emoji One, EmojiTwo"),
    )
}

# The 3D package has the pictures of these two skin tones the wrong way round: the mean red of
# thumbs-up, light to dark, reads 230, 165, 216, 129, 71 as shipped.
SWAPPED_TONES = {"1F3FC": "1F3FD", "1F3FD": "1F3FC"}


def download(package: str, folder: Path) -> Path:
    """The package's tarball in `folder`, fetched with `npm pack` when it is not there yet.

    Appears by rename: the processes that draw the styles share these files.
    """
    name, version = package.lstrip("@").rsplit("@", 1)
    tarball = folder / f"{name.replace('/', '-')}-{version}.tgz"
    if not tarball.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as part:
            subprocess.run(["npm", "pack", "--silent", package], cwd=part, check=True, stdout=subprocess.DEVNULL)
            Path(part, tarball.name).replace(tarball)
    return tarball


def read_json(tarball: Path, member: str) -> Any:
    with tarfile.open(tarball) as archive:
        file = archive.extractfile(f"package/{member}")
        assert file is not None, f"{member} is missing from {tarball.name}"
        return json.load(file)


def plain(hexcode: str) -> str:
    """Code points without the presentation selector FE0F, which packages use as they please."""
    return "-".join(point for point in hexcode.upper().split("-") if point != "FE0F")


def slugify(label: str) -> str:
    ascii_label = unicodedata.normalize("NFKD", label.replace("’", "")).encode("ascii", "ignore").decode()
    return UNSAFE_FILL.sub("-", ascii_label.lower()).strip("-")


def slugs(folder: Path, labels: dict[str, str]) -> dict[str, list[str]]:
    """For every code point sequence, the slugs it goes by: in the packages that say so, and its label's."""
    table: dict[str, list[str]] = {code: [slugify(label)] for code, label in labels.items()}
    for package in SLUG_PACKAGES:
        for code, slug in read_json(download(package, folder), "chars.json").items():
            names = table.get(plain(code))
            if names is not None and slug not in names:
                names.append(slug)
    return table


class SvgSet:
    """An Iconify set: SVG bodies by slug."""

    def __init__(self, tarball: Path, names: dict[str, list[str]]):
        data = read_json(tarball, "icons.json")
        self.icons, self.aliases, self.names = data["icons"], data.get("aliases", {}), names
        self.size = (data.get("width", 16), data.get("height", 16))

    def _body(self, slug: str) -> dict[str, Any] | None:
        alias = self.aliases.get(slug)
        if alias and set(alias) <= {"parent"}:  # an alias that also turns the picture is left out
            slug = alias["parent"]
        return self.icons.get(slug)

    def read(self, code: str, size: int) -> Image.Image | None:
        import resvg_py

        found = (self._body(slug) for slug in self.names.get(code, ()))
        icon = next((icon for icon in found if icon and not icon.get("hidden")), None)
        if icon is None:
            return None
        width, height = icon.get("width", self.size[0]), icon.get("height", self.size[1])
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{icon["body"]}</svg>'
        )
        png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
        picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        return picture if picture.size == (size, size) else picture.resize((size, size), Image.Resampling.LANCZOS)


class WebpSet:
    """The 3D set: 256 px WebP files named by code points."""

    def __init__(self, tarball: Path):
        self.archive = tarfile.open(tarball)  # noqa: SIM115 (read from until the process ends)
        self.members = {plain(Path(name).stem): name for name in self.archive.getnames() if name.endswith(".webp")}

    def read(self, code: str, size: int) -> Image.Image | None:
        member = self.members.get(unswap(code))
        if member is None:
            return None
        file = self.archive.extractfile(member)
        assert file is not None
        return Image.open(io.BytesIO(file.read())).convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)


def unswap(code: str) -> str:
    """The file in which the 3D package keeps this sequence's picture (see SWAPPED_TONES)."""
    return "-".join(SWAPPED_TONES.get(point, point) for point in code.split("-"))


def open_style(style: Style, folder: Path, names: dict[str, list[str]]) -> SvgSet | WebpSet:
    tarball = download(style.package, folder)
    return WebpSet(tarball) if style.key == "3d" else SvgSet(tarball, names)


def read_names(folder: Path) -> list[dict[str, Any]]:
    """Unicode's own list, in order: dicts with label, hexcode, tags, group and, for some, skins."""
    entries: Iterable[dict[str, Any]] = read_json(download(NAMES_PACKAGE, folder), "en/data.json")
    return [entry for entry in entries if entry.get("group") is not None]
