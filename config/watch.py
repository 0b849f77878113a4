"""``[watch]`` and ``[alerts]``: what is counted about models, and when somebody is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from config.kinds import Host, Name, Seconds, Section, in_words

Share = Annotated[float, Field(ge=0, le=1)]
CodedConcept = Annotated[
    str,
    Field(
        pattern=r"^[0-9A-Za-z._-]{1,64}:[0-9A-Za-z_]{1,16}$",
        json_schema_extra=in_words("a code and its scheme such as 122775:DCM"),
    ),
]
# A name and a password in it would stand in the file and in logs.
HttpUrl = Annotated[
    str,
    Field(
        pattern=r"^https?://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?(/[^\s@]*)?$",
        json_schema_extra=in_words("an http or https address without user name"),
    ),
]
MailAddress = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9.-]{1,253}$",
        json_schema_extra=in_words("a mail address"),
    ),
]
TcpPort = Annotated[int, Field(ge=1, le=65535)]


class WatchSettings(Section):
    """``[watch]``: what is kept and counted about the runs of models."""

    window_seconds: Seconds = Field(
        3600, description="Seconds that latencies, throughput and failures are counted over."
    )
    scores: int = Field(
        200,
        ge=10,
        le=100000,
        description="Newest scores of a finding that are compared with the model's reference; a "
        "model that brings none is compared with its own first ones, so many.",
    )
    fewest_scores: int = Field(
        50, ge=5, le=100000, description="Scores below which no drift is told."
    )
    keep_days: Annotated[float, Field(ge=1, le=3650)] = Field(
        365, description="Days that scores, times and feedback are kept."
    )
    keep_runs: int = Field(
        500000, ge=100, description="Runs whose scores and times are kept at most, the newest."
    )
    shadow_days: Annotated[float, Field(ge=0, le=3650)] = Field(
        30,
        description="Days that result objects of shadow runs are kept, which nobody is sent; "
        "0: for ever. What was counted of them stays.",
    )
    accept_codes: tuple[CodedConcept, ...] = Field(
        ("122775:DCM", "410605003:SCT"),
        description="Codes of an assessment that comes back as SR which say a finding is right.",
    )
    reject_codes: tuple[CodedConcept, ...] = Field(
        ("122776:DCM", "410594000:SCT", "410516002:SCT"),
        description="Codes that say it is not there.",
    )
    correct_codes: tuple[CodedConcept, ...] = Field(
        (), description="Codes that say it is there but not as the model told it."
    )


class SyslogSettings(Section):
    """``[[alerts.syslog]]``: a server that gets alerts by RFC 5424."""

    name: Name = Field(description="What status and audit call it.")
    host: Host = Field(description="Host name or address.")
    port: TcpPort = Field(514, description="Its port.")
    transport: Literal["udp", "tcp"] = Field(
        "udp", description="udp: RFC 5426; tcp: octet-counted, RFC 6587."
    )
    facility: int = Field(16, ge=0, le=23, description="Facility number; 16 is local0.")


class WebhookSettings(Section):
    """``[[alerts.webhooks]]``: an address that gets alerts as JSON by POST."""

    name: Name = Field(description="What status and audit call it.")
    url: HttpUrl = Field(description="Where they are posted; redirections are not followed.")
    ca: Path | None = Field(
        None,
        description="CA certificates, PEM, that its certificate must come from; left out, those "
        "that this machine trusts.",
    )


class MailSettings(Section):
    """``[[alerts.mail]]``: a mail server that takes alerts."""

    name: Name = Field(description="What status and audit call it.")
    host: Host = Field(description="Host name or address of the mail server.")
    port: TcpPort = Field(25, description="Its port.")
    starttls: bool = Field(False, description="Ask for TLS, and send nothing without it.")
    ca: Path | None = Field(
        None,
        description="CA certificates, PEM, that its certificate must come from; left out, those "
        "that this machine trusts.",
    )
    sender: MailAddress = Field(description="Who the mail is from.")
    recipients: tuple[MailAddress, ...] = Field(min_length=1, description="Who gets it.")


class AlertSettings(Section):
    """``[alerts]``: when somebody is told, and how. See docs/operations.md."""

    every_seconds: Annotated[float, Field(ge=0.1, le=3600)] = Field(
        60, description="Seconds between two looks at what might be wrong."
    )
    quiet_seconds: Seconds = Field(
        300, description="Seconds between two messages about the same thing at least."
    )
    remind_seconds: Annotated[float, Field(ge=0, le=2592000)] = Field(
        86400, description="Seconds after which what lasts is told again; 0 never."
    )
    drift_psi: Annotated[float, Field(ge=0)] = Field(
        0.25, description="Population stability index of a finding's scores; 0 never."
    )
    drift_p: Share = Field(
        0.001,
        description="Chance of the scores without a drift (Kolmogorov-Smirnov) that must be "
        "fallen short of too.",
    )
    rejection_rate: Share = Field(
        0.3,
        description="Share of the newest watch.scores assessed answers that were rejected, by the "
        "lower end of its 95 % interval; 0 never.",
    )
    latency_p95_seconds: Seconds = Field(
        300, description="95th percentile of a model's run from decoding to proof; 0 never."
    )
    queue_age_seconds: Seconds = Field(
        900, description="Age of the oldest job that is not done; 0 never."
    )
    failures: int = Field(
        1, ge=0, description="Jobs of one model that failed for good within the window; 0 never."
    )
    provider: bool = Field(
        True, description="A model runs on another execution provider than models.providers asks."
    )
    disk_free_times: Annotated[float, Field(ge=0, le=1000)] = Field(
        2.0, description="Free space below so many times storage.min_free; 0 never."
    )
    certificate_days: Annotated[float, Field(ge=0, le=366)] = Field(
        30, description="Days before the end of a certificate that the node shows others; 0 never."
    )
    breaker: bool = Field(True, description="A circuit breaker is open.")
    damage: bool = Field(True, description="The scrub found stored objects damaged or missing.")
    quarantine: bool = Field(
        True, description="Received objects went to quarantine within the window."
    )
    syslog: tuple[SyslogSettings, ...] = ()
    webhooks: tuple[WebhookSettings, ...] = ()
    mail: tuple[MailSettings, ...] = ()

    def channel_faults(self) -> Iterator[tuple[str, str, str]]:
        """Find doubled names, and a CA where no TLS is: key, what was found, what is allowed."""
        for kind in ("syslog", "webhooks", "mail"):
            names = [entry.name for entry in getattr(self, kind)]
            for index, name in enumerate(names):
                if name in names[:index]:
                    key = f"alerts.{kind}.{index}.name"
                    yield key, f"the name {name!r} a second time", "names are unique"
        for index, webhook in enumerate(self.webhooks):
            if webhook.ca is not None and not webhook.url.startswith("https:"):
                yield f"alerts.webhooks.{index}.ca", "a CA for plain http", "it goes with https"
        for index, server in enumerate(self.mail):
            if server.ca is not None and not server.starttls:
                key = f"alerts.mail.{index}.ca"
                yield key, "a CA for mail without TLS", "it goes with starttls = true"
