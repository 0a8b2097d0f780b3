"""What the package index shows: addresses and README, both made from `repository` in pyproject.toml.

README links to files of the repository by relative paths, which lead nowhere on a package index. The build replaces
them: a page of `docs/` by its page on the site, every other file by the file in the repository at the tag of this
version.
"""

import re
from pathlib import Path, PurePosixPath

from hatchling.metadata.plugin.interface import MetadataHookInterface


class PackagePage(MetadataHookInterface):
    """Fills in `project.urls` and `project.readme`."""

    def update(self, metadata: dict) -> None:
        """Add both fields to the metadata of the project."""
        repository, version = self.config["repository"], metadata["version"]
        docs = docs_address(repository)
        metadata["urls"] = {
            "Documentation": docs,
            "Source": repository,
            "Issues": f"{repository}/issues",
            "Changelog": f"{docs}/changelog.html",
            "Paper": "https://arxiv.org/abs/2310.00031",
        }
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = with_absolute_links(readme, repository, version)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def docs_address(repository: str) -> str:
    """The address of the site that GitHub Pages serves for a repository."""
    owner, name = PurePosixPath(repository).parts[-2:]
    return f"https://{owner}.github.io/{name}"


def with_absolute_links(readme: str, repository: str, version: str) -> str:
    """README with an address in place of each relative link."""

    def absolute(link: re.Match) -> str:
        path, anchor = link[2], link[3] or ""
        if re.match(r"docs/.+\.md$", path):
            page = path.removeprefix("docs/").removesuffix(".md")
            return f"{link[1]}({docs_address(repository)}/{page}.html{anchor})"
        kind = "raw" if PurePosixPath(path).suffix in (".png", ".svg") else "blob"
        return f"{link[1]}({repository}/{kind}/v{version}/{path}{anchor})"

    return re.sub(r"(\])\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)", absolute, readme)
