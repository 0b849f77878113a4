"""The settings, as the administrator writes them in ``medai_node.toml``.

Every model is frozen and refuses unknown keys. A field's description says its unit and what it is
for; ``restart`` in its extra marks a key that a running node takes up only when started again, and
``words`` says in plain English what a validator or pattern lets through.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, Field, StrictBool, model_validator
from pydantic_core import PydanticCustomError

from config.kinds import (
    RESTART,
    UID,
    Address,
    AETitle,
    ContentCheck,
    Name,
    Port,
    Seconds,
    Section,
    in_words,
)
from config.peers import DestinationSettings, PeerSettings
from config.watch import AlertSettings, WatchSettings
from config.web import WebSettings

ModelReference = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9-]*(@[0-9][0-9A-Za-z.+-]*)?$",
        json_schema_extra=in_words("a model name, or name@version"),
    ),
]
VersionReference = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9-]*@[0-9][0-9A-Za-z.+-]*$",
        json_schema_extra=in_words("name@version"),
    ),
]


class TlsSettings(Section):
    """``[node.tls]``: TLS on the DICOM port; left out, the port speaks plain DICOM."""

    certificate: Path = Field(
        description="The node's certificate and those between it and its CA, PEM.",
        json_schema_extra=RESTART,
    )
    private_key: Path = Field(
        description="Its private key, PEM, without a password.", json_schema_extra=RESTART
    )
    client_ca: Path | None = Field(
        None,
        description="CA certificates, PEM, that peers' own certificates must come from; "
        "left out, peers show none.",
        json_schema_extra=RESTART,
    )
    profile: Literal["bcp195", "tls13"] = Field(
        "bcp195",
        description="bcp195: TLS 1.2 or later by PS3.15 B.12; tls13: TLS 1.3 alone.",
        json_schema_extra=RESTART,
    )


class NodeSettings(Section):
    """``[node]``: what peers see and where the node keeps its data."""

    ae_title: AETitle = Field("MEDAI", description="The AE title that peers call.")
    bind: Address = Field(
        "127.0.0.1", description="Address the DICOM port listens on.", json_schema_extra=RESTART
    )
    port: Port = Field(
        11112, description="The DICOM port; 0 takes a free one.", json_schema_extra=RESTART
    )
    data_dir: Path = Field(
        Path("var"),
        description="Folder of objects, database, keys and quarantine; on a local disk.",
        json_schema_extra=RESTART,
    )
    receivers: int = Field(
        0,
        ge=0,
        le=64,
        description="Receiver processes; 0 means one a core, at most 4.",
        json_schema_extra=RESTART,
    )
    max_associations: int = Field(64, ge=1, le=4096, description="Associations open at once.")
    maximum_pdu_size: int = Field(
        1 << 20, ge=4096, le=1 << 27, description="Longest PDU a peer may send, in bytes."
    )
    drain_seconds: Seconds = Field(
        10, description="Seconds that running associations may go on after a stop was asked for."
    )
    private_sop_classes: tuple[UID, ...] = Field(
        (), description="SOP class UIDs accepted beside the standard's storage classes."
    )
    tls: TlsSettings | None = None

    @property
    def receiver_processes(self) -> int:
        """Receiver processes to start."""
        return self.receivers or min(4, os.cpu_count() or 1)


class StorageSettings(Section):
    """``[storage]``: room on disk and what becomes of objects that come back."""

    min_free: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="Bytes that must stay free; below it C-STORE gets 0xA700. "
        "auto: the smaller of 5 GiB and 5 %.",
    )
    own_results: Literal["store", "refuse"] = Field(
        "store", description="What to do with results of this node that are sent back to it."
    )
    quarantine_bytes: int = Field(
        1 << 30, ge=0, description="Room for quarantined objects, in bytes; the oldest leave first."
    )
    scrub_bytes_per_second: int = Field(
        4 << 20,
        ge=0,
        description="Bytes a second at which stored objects are read again to see that they are "
        "as they were; 0 never does.",
        json_schema_extra=RESTART,
    )


class SeriesSettings(Section):
    """``[series]``: when a series and a study are complete."""

    quiet_seconds: Seconds = Field(
        10, description="Seconds of silence after the last object, associations released."
    )
    give_up_seconds: Seconds = Field(
        900, description="Seconds of silence after which a series is taken as it is."
    )
    study_quiet_seconds: Seconds = Field(
        60, description="Seconds of silence after which a study is settled."
    )


class ModelsSettings(Section):
    """``[models]``: where models come from and what they run on."""

    path: Path | None = Field(None, description="The site's own packages, beside the bundled ones.")
    providers: Literal["auto"] | tuple[Literal["tensorrt", "cuda", "cpu"], ...] = Field(
        "auto", description="Execution providers, best first; auto takes what is there."
    )
    workers: int = Field(0, ge=0, le=256, description="Threads that run jobs; 0 means one a core.")
    limits: dict[str, Annotated[int, Field(ge=1, le=256)]] = Field(
        default_factory=dict,
        description="Jobs of a model that run at once at most, by the model's name; its versions "
        "count together.",
    )
    job_seconds: Seconds = Field(
        600, description="Time limit of one job, decoding to proof, in seconds; 0: none."
    )
    grace_seconds: Seconds = Field(
        10,
        description="Seconds a job over its time limit has to stop before its worker is replaced.",
    )
    max_attempts: int = Field(3, ge=1, le=20, description="Attempts before a job has failed.")
    text_model: ModelReference = Field(
        "burned-in-text", description="The model that finds burned-in text, see docs/content.md."
    )
    preload: bool = Field(
        True, description="Load and warm the models of the routes when the worker starts."
    )
    idle_seconds: Seconds = Field(
        900, description="Seconds after which a model that nobody used leaves memory; 0: never."
    )
    join_milliseconds: Annotated[float, Field(ge=0, le=1000)] | None = Field(
        None,
        description="How long a run may wait for others of its model to share a batch; left out: "
        "3 on a GPU, not at all on the CPU, where batches gain nothing.",
    )
    require_signature: bool = Field(
        False, description="Take only packages of the site that a trusted key signed."
    )
    trusted_keys: tuple[Path, ...] = Field(
        (), description="Ed25519 public keys of those who may sign packages, PEM, one a file."
    )

    @property
    def worker_threads(self) -> int:
        """Threads that run jobs."""
        return self.workers or os.cpu_count() or 1


class RouteInputSettings(Section):
    """``[[routes.inputs]]``: which series of a study is one input of the route's model."""

    role: str = Field(
        pattern=r"^[a-z][a-z0-9_-]{0,31}$",
        description="The input's role in the model's manifest.",
        json_schema_extra=in_words("the role of an input"),
    )
    when: dict[str, Any] = Field(
        default_factory=dict, description="Conditions beside those of the route; all must hold."
    )
    prefer: tuple[dict[str, Any], ...] = Field(
        (), description="Conditions in falling order of preference, in place of the route's."
    )


class RouteSettings(Section):
    """``[[routes]]``: which series go to which model and where the results go."""

    name: Name = Field(description="Shown in explain, jobs and audit.")
    scope: Literal["series", "study"] = Field(
        "series",
        description="series: it runs for each complete series; study: once, on the settled study.",
    )
    when: dict[str, Any] = Field(description="Conditions; all must hold. See docs/routing.md.")
    prefer: tuple[dict[str, Any], ...] = Field(
        (),
        description="For a study: conditions in falling order of preference among its series.",
    )
    inputs: tuple[RouteInputSettings, ...] = ()
    model: ModelReference = Field(
        description="Model name, the version of it that serves; name@version pins a version.",
    )
    canary: Annotated[float, Field(ge=0, le=100)] = Field(
        0,
        description="Percent of studies that a version in validation answers instead; a study is "
        "always on the same side.",
    )
    canary_model: VersionReference | None = Field(
        None, description="The version that answers them; left out, the newest in validation."
    )
    shadow: StrictBool | VersionReference = Field(
        False,
        description="Run a version beside the other and keep its results without delivering "
        "them; true: the newest in validation.",
    )
    priority: Literal["request", "stat", "routine"] = Field(
        "request",
        description="stat: its jobs run before routine ones; request: where the images' request "
        "says STAT or HIGH, (0040,1003).",
    )
    content: ContentCheck = Field(
        "warn",
        description="Where the pixels do not show what the model is for: skip does not run it, "
        "warn marks its findings for a human look, off does not look.",
    )
    burned_in: ContentCheck = Field(
        "off",
        description="Text burned into the pixels, looked for by models.text_model: warn marks "
        "findings for a human look, skip does not run the model where the text names the patient.",
    )
    send_to: tuple[Name, ...] = Field((), description="Names of destinations.")


# What runs where no file says otherwise; medai_node.toml says the same.
DEFAULT_ROUTES = (
    RouteSettings(
        name="CT tissue",
        when={"Modality": "CT", "slices": {"min": 10}},
        model="ct-tissue",
    ),
    RouteSettings(
        name="Radiograph quality",
        when={"Modality": ["CR", "DX", "MG"]},
        model="xr-quality",
    ),
)


class Settings(Section):
    """The whole file."""

    node: NodeSettings = NodeSettings()
    storage: StorageSettings = StorageSettings()
    peers: tuple[PeerSettings, ...] = ()
    series: SeriesSettings = SeriesSettings()
    models: ModelsSettings = ModelsSettings()
    routes: tuple[RouteSettings, ...] = ()
    destinations: tuple[DestinationSettings, ...] = ()
    web: WebSettings = WebSettings()
    watch: WatchSettings = WatchSettings()
    alerts: AlertSettings = AlertSettings()

    @model_validator(mode="after")
    def _names_are_unique_and_known(self) -> Settings:
        routes = [route.model_dump() for route in self.routes]
        destinations = [destination.model_dump() for destination in self.destinations]
        faults = [f"{key}: {found}" for key, found, _ in name_faults(routes, destinations)]
        if faults:
            raise PydanticCustomError("names", "{faults}", {"faults": "; ".join(faults)})
        return self

    def destination(self, name: str) -> DestinationSettings | None:
        """The destination of that name, or None when it is no longer in the file."""
        return next((entry for entry in self.destinations if entry.name == name), None)


def _scope_faults(routes: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for index, route in enumerate(routes):
        if route.get("scope", "series") == "series":
            for key in ("prefer", "inputs"):
                if route.get(key):
                    said = 'it goes with scope = "study"'
                    yield f"routes.{index}.{key}", "choices among the series of a study", said
        inputs = route.get("inputs")
        entries = inputs if isinstance(inputs, (list, tuple)) else ()
        roles = [entry.get("role") if isinstance(entry, Mapping) else None for entry in entries]
        for place, role in enumerate(roles):
            if role is not None and role in roles[:place]:
                key = f"routes.{index}.inputs.{place}.role"
                yield key, f"the role {role!r} a second time", "roles are unique"


def with_paths(settings: Settings, change: Callable[[Path], Path]) -> Settings:
    """The same settings with every path in them changed."""

    def changed(section: Any) -> Any:
        if isinstance(section, Path):
            return change(section)
        if isinstance(section, tuple):
            return tuple(changed(entry) for entry in section)
        if isinstance(section, BaseModel):
            return section.model_copy(update={name: changed(entry) for name, entry in section})
        return section

    return cast(Settings, changed(settings))


def name_faults(
    routes: Sequence[Mapping[str, Any]], destinations: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, str, str]]:
    """Find doubled names and routes to destinations that do not exist.

    Args:
        routes: The tables as they stand in the file, perhaps wrong in other ways.
        destinations: The same.

    Yields:
        Dotted key, what was found, what is allowed.
    """
    for kind, tables in (("routes", routes), ("destinations", destinations)):
        names = [table.get("name") for table in tables]
        for index, name in enumerate(names):
            if name is not None and name in names[:index]:
                yield f"{kind}.{index}.name", f"the name {name!r} a second time", "names are unique"
    yield from _scope_faults(routes)
    known = [table.get("name") for table in destinations]
    listed = ", ".join(repr(name) for name in known) or "none"
    for index, route in enumerate(routes):
        send_to = route.get("send_to")
        for place, name in enumerate(send_to if isinstance(send_to, (list, tuple)) else ()):
            if name not in known:
                yield (
                    f"routes.{index}.send_to.{place}",
                    f"the unknown destination {name!r}",
                    f"the destinations of this file: {listed}",
                )
