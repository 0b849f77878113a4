"""``medai-node models reference``: keep with a model what its images look like."""

from __future__ import annotations

from typing import Annotated

import typer

from config.errors import UsageError
from dicomnode.cli.common import AsJson, ConfigFile, complain, read_settings, say, show_json
from dicomnode.cli.files import Paths, files_in


def make_reference(
    model: Annotated[str, typer.Argument(help="name@version, a package of the site.")],
    paths: Paths,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Keep in a package what its images look like, so that others are marked for a human look.

    The package is sealed again and has another digest, so it is done before it is promoted.
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    from dicomnode.work.models import is_bundled, make_engine, make_registry  # noqa: PLC0415
    from dicomnode.work.reference import add_reference  # noqa: PLC0415

    settings = read_settings(config)
    registry = make_registry(settings)
    package = registry.find(model)
    if is_bundled(package):
        raise UsageError(f"{model} came with the node; a reference is made for a package of a site")
    if registry.status(package) == "production":
        raise UsageError(f"{model} is in production, where its bytes stay what they are")
    files = files_in(paths)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("running", total=None)
        engine = make_engine(settings, registry)
        made = add_reference(package, engine, files, lambda: progress.advance(task))
    if as_json:
        show_json(
            {
                "model": model,
                "digest": made.package.digest,
                "images": made.reference.images,
                "left_out": list(made.left_out),
            }
        )
        return
    for reason in made.left_out:
        complain(f"left out: {reason}")
    say(f"{model} {made.package.digest}: a reference of {made.reference.images} images")
