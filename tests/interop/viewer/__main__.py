"""Fetch the viewer and what drives it."""

from tests.interop.viewer import OHIF, PLAYWRIGHT, fetch

for package in (OHIF, PLAYWRIGHT):
    fetch(package)
    print(f"{package.name} {package.version}: {package.folder}")
