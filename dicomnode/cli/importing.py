"""``medai-node models import``: a package of what another program trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicomnode.cli.common import AsJson, say, show_json


def import_model(
    kind: Annotated[
        str,
        typer.Argument(
            help="onnx, monai, torchxrayvision, nnunet, deepbet, rapidocr, sklearn or tensorflow."
        ),
    ],
    source: Annotated[Path, typer.Argument(help="A file, a folder or an archive of one.")],
    *,
    into: Annotated[
        Path, typer.Option("--into", "-o", help="Folder of packages; NAME/VERSION is made in it.")
    ],
    answers: Annotated[
        Path | None, typer.Option("--answers", "-a", help="TOML: what the source does not tell.")
    ] = None,
    pairs: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE: one answer more; may be repeated.")
    ] = None,
    draft: Annotated[
        Path | None, typer.Option("--draft", help="Write answers to be completed to this file.")
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option(
            "--golden", help="Image for the golden case (NIfTI, PNG, …); else a random one."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random image.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Make a package of what another program saved."""
    from ai.importing.build import import_model as build  # noqa: PLC0415
    from ai.importing.draft import read_answers  # noqa: PLC0415

    made = build(
        kind,
        source,
        into,
        read_answers(answers, pairs or ()),
        draft=draft,
        image=golden,
        seed=seed,
    )
    package = made.package
    if as_json:
        show_json(
            {
                "model": package.manifest.reference,
                "digest": package.digest,
                "folder": str(package.folder),
                "notes": list(made.notes),
            }
        )
        return
    say(f"{package.manifest.reference} {package.digest}")
    for note in made.notes:
        say(f"  {note}")
