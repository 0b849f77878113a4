"""Commands on files and peers: echo, send, explain, infer, validate."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from config.errors import InputError, PeerError, UsageError
from config.schema import Settings
from dicomnode.cli.common import AsJson, ConfigFile, complain, read_settings, say, show_json

if TYPE_CHECKING:
    from dicomnode.net.scu import Peer

Paths = Annotated[list[Path], typer.Argument(exists=True, help="Files or folders.")]
To = Annotated[str, typer.Option("--to", help="AE@HOST:PORT, or a destination's name.")]

# What is no DICOM object, by the kind of result.
_JSON_FILES = {"json": "report.json", "fhir": "fhir.json"}


def peer_of(text: str, settings: Settings) -> Peer:
    """A destination's name, or ``AE@HOST:PORT``.

    Raises:
        UsageError: It is neither.
    """
    from dicomnode.net.scu import Peer  # noqa: PLC0415

    named = settings.destination(text)
    if named is not None:
        return Peer.of(named, settings.node.ae_title)
    ae_title, at, address = text.rpartition("@")
    host, colon, port = address.rpartition(":")
    if not (at and colon and ae_title and host and port.isdigit() and 0 < int(port) < 65536):
        known = ", ".join(entry.name for entry in settings.destinations) or "none is set"
        raise UsageError(
            f"{text!r} is neither AE@HOST:PORT nor the name of a destination ({known})"
        )
    return Peer(ae_title, host.strip("[]"), int(port), settings.node.ae_title)


def files_in(paths: list[Path]) -> list[Path]:
    """The files themselves and every file below the folders, sorted.

    Raises:
        UsageError: There is none, or something named is neither file nor folder.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(entry for entry in path.rglob("*") if entry.is_file())
        elif path.is_file():
            found.append(path)
        else:  # reading a pipe would wait for whoever writes it
            raise UsageError(f"{path} is neither a file nor a folder")
    if not found:
        raise UsageError("there is no file in " + ", ".join(map(str, paths)))
    return found


def _require_dicom(files: list[Path]) -> None:
    """Name the first file that cannot be read as DICOM.

    Raises:
        InputError: With its name.
    """
    from dicomnode.series.headers import read_header  # noqa: PLC0415

    for path in files:
        try:
            read_header(path)
        except InputError as error:
            raise InputError(f"{path.name}: {error}") from error


def echo(
    peer: Annotated[str, typer.Argument(help="AE@HOST:PORT, or a destination's name.")],
    config: ConfigFile = None,
) -> None:
    """C-ECHO: does the peer answer?"""
    from dicomnode.net import scu  # noqa: PLC0415

    status = scu.echo(peer_of(peer, read_settings(config)))
    if status != 0:
        raise PeerError(f"the peer answered C-ECHO with 0x{status:04X}", status)
    say("The peer answers.")


def send(paths: Paths, to: To, config: ConfigFile = None) -> None:
    """C-STORE files or folders to a peer, with a progress bar."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    from dicomnode.net import scu  # noqa: PLC0415

    peer = peer_of(to, read_settings(config))
    files = files_in(paths)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("sending", total=len(files))
        answers = scu.send(files, peer, lambda _: progress.advance(task))
    failed = [answer for answer in answers if not answer.accepted]
    for answer in failed:
        complain(f"{answer.path}: not taken: {answer.why}")
    say(f"{len(answers) - len(failed)} of {len(answers)} files were taken.")
    if failed:
        raise typer.Exit(1)


def explain(paths: Paths, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Dry run: the series found, their quality, each rule, and what the pixels show."""
    from dicomnode.results.provenance import made_here  # noqa: PLC0415
    from dicomnode.series.explain import explain as explain_files  # noqa: PLC0415
    from dicomnode.work.content import looks_at  # noqa: PLC0415
    from dicomnode.work.models import make_registry  # noqa: PLC0415

    settings = read_settings(config)
    found = explain_files(files_in(paths), settings.routes, make_registry(settings), made_here)
    looks = [looks_at(entry) for entry in found.units]
    if as_json:
        content = found.as_json()
        for entry, seen in zip(content["series"], looks, strict=True):
            entry["content"] = [look.as_json() for look in seen]
        show_json(content)
    else:
        for line in found.sentences():
            say(line)
        for seen in looks:
            for look in seen:
                say(look.sentence())
    if not found.units:
        raise typer.Exit(1)


def infer(
    paths: Paths,
    *,
    model: Annotated[str, typer.Option("--model", "-m", help="name or name@version.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the objects.")],
    results: Annotated[
        str | None,
        typer.Option(
            "--results", help="Kinds beside the model's own, with commas: sr,seg,overlay."
        ),
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--input", help="Another input of the model as ROLE=PATH; may be repeated."),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Run a model on one series without a network; objects, reports and pictures go to a folder."""
    from datetime import UTC, datetime  # noqa: PLC0415

    from dicomnode.results.basicsr import in_words  # noqa: PLC0415
    from dicomnode.results.provenance import Provenance  # noqa: PLC0415
    from dicomnode.results.rendering import source_picture  # noqa: PLC0415
    from dicomnode.results.uids import result_uid  # noqa: PLC0415
    from dicomnode.series.decode_pool import DecodePool  # noqa: PLC0415
    from dicomnode.work.models import make_engine, make_registry  # noqa: PLC0415
    from dicomnode.work.pipeline import (  # noqa: PLC0415
        analyse,
        model_facts,
        picture,
        software_version,
    )

    settings = read_settings(config)
    registry = make_registry(settings)
    package = registry.find(model)
    kinds = _kinds(results)
    files, beside = files_in(paths), _inputs(others or [])
    digest = hashlib.sha256(package.digest.encode())
    for role, members in {"": files, **beside}.items():
        _require_dicom(members)
        digest.update(role.encode())
        for content in sorted(hashlib.sha256(path.read_bytes()).digest() for path in members):
            digest.update(content)
    identity = digest.hexdigest()
    provenance = Provenance(
        identity=identity,
        created=datetime.now(UTC).astimezone(),
        ae_title=settings.node.ae_title,
        node_uid=result_uid(identity, "offline"),
        software_version=software_version(),
        model=model_facts(package),
    )
    with DecodePool(settings.models.worker_threads) as decoder:
        analysis = analyse(
            files,
            package,
            make_engine(settings, registry),
            provenance,
            others=beside,
            kinds=kinds,
            decoder=decoder,
            deadline_seconds=settings.models.job_seconds or None,
        )
    output.mkdir(parents=True, exist_ok=True)
    for result in analysis.results:
        path = output / _JSON_FILES.get(result.kind, f"{result.kind}.dcm")
        path.write_bytes(result.content)
        say(str(path))
    series = analysis.series
    for name, content in (
        ("source.png", source_picture(series.volume, series.headers)),
        ("annotated.png", picture(analysis, package)),
    ):
        (output / name).write_bytes(content)
        say(str(output / name))
    for finding in analysis.answer.findings:
        say(in_words(finding))
    if not analysis.answer.findings:
        say("The model reports no finding.")
    if analysis.judgement.look is not None:
        complain(analysis.judgement.look)


def _kinds(listed: str | None) -> list[str]:
    """The kinds of a ``--results``; what is easiest to look at where none are given.

    Raises:
        UsageError: One of them is not known.
    """
    from dicomnode.results.bundle import FORMS  # noqa: PLC0415

    kinds = (
        ["pdf", *_JSON_FILES] if listed is None else [each.strip() for each in listed.split(",")]
    )
    for kind in kinds:
        if kind not in FORMS:
            raise UsageError(f"{kind!r} is no kind of result; there are {', '.join(FORMS)}")
    return kinds


def _inputs(pairs: list[str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for pair in pairs:
        role, equals, path = pair.partition("=")
        if not (role and equals and Path(path).exists()):
            raise UsageError(f"{pair!r} is not ROLE=PATH with a path that is there")
        found[role] = files_in([Path(path)])
    return found


def validate(paths: Paths, as_json: AsJson = False) -> None:
    """The node's own gate on any SR, SEG or other DICOM file; exit 1 when something is wrong."""
    from dicomnode.results.gate import inspect  # noqa: PLC0415

    wrong: dict[str, list[str]] = {}
    unchecked: dict[str, tuple[str, ...]] = {}
    for path in files_in(paths):
        try:
            found = inspect(path)
            wrong[str(path)] = [str(finding) for finding in found.findings]
            unchecked[str(path)] = found.unchecked
        except InputError as error:
            wrong[str(path)] = [str(error)]
        except OSError as error:
            wrong[str(path)] = [f"it cannot be opened: {error.strerror or 'reading failed'}"]
    if as_json:
        show_json(
            {
                name: {"findings": findings, "unchecked": list(unchecked.get(name, ()))}
                for name, findings in wrong.items()
            }
        )
    else:
        for name, findings in wrong.items():
            for finding in findings or ["nothing is wrong"]:
                say(f"{name}: {finding}")
            for text in unchecked.get(name, ()):
                say(f"{name}: {text}")
    if any(wrong.values()):
        raise typer.Exit(1)
