"""Groups: the settings of `serve`, a dataclass for each table of its file and each group of its help.

A key has the name of its flag, with underscores. Paths in a file are relative to the file's folder. None: as said in
the help, usually off. Each group raises SettingsError for a value out of its range; what two values say together is
checked by `combined_problems` in settings.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ..connections.listening import MOST_PORT
from ..log import FORMATS
from .setting import Setting, check_values


class Group:
    """A group of settings, whose values are checked when it is made."""

    __slots__ = ()

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, slots=True)
class Address(Group):
    """The address and the ports at which the server listens."""

    host: Annotated[str, Setting("Address to listen on; the default is this machine only.")] = "127.0.0.1"
    port: Annotated[int, Setting("gRPC port; 0 picks a free one and says which.", least=0, most=MOST_PORT)] = 8001
    unix_socket: Annotated[
        Path | None, Setting("Path of a unix socket beside the port, for processes of this user; off by default.")
    ] = None
    metrics_port: Annotated[
        int | None, Setting("Port for Prometheus text, off by default; 0 picks one.", least=0, most=MOST_PORT)
    ] = None
    http_port: Annotated[
        int | None,
        Setting(
            "Port for REST, the metrics and the dashboard, off by default; 0 picks one. Needs the [http] extra.",
            least=0,
            most=MOST_PORT,
        ),
    ] = None
    http_unix_socket: Annotated[
        Path | None,
        Setting(
            "Path of a unix socket for the same over HTTP, for processes of this user; with or without --http-port. "
            "Off by default. Needs the [http] extra."
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Security(Group):
    """The encryption of connections, the rights of clients, and the trust in files."""

    tls_cert: Annotated[
        Path | None, Setting("PEM file of the server's certificate chain: connections are encrypted.")
    ] = None
    tls_key: Annotated[Path | None, Setting("PEM file of the certificate's private key.")] = None
    client_ca: Annotated[
        Path | None, Setting("PEM file of the authorities whose certificates clients must show (mutual TLS).")
    ] = None
    token_file: Annotated[
        Path | None, Setting("File of bearer tokens and their rights; without a token, nothing but health.")
    ] = None
    insecure: Annotated[bool, Setting("Listen on a public address without TLS.")] = False
    allow_shared_memory: Annotated[bool, Setting("Let clients pass tensors in the shared memory of this machine.")] = (
        False
    )
    check_signature: Annotated[
        Path | None, Setting("File of an Ed25519 public key whose owner must have signed each checkpoint.")
    ] = None


@dataclass(frozen=True, slots=True)
class Limits(Group):
    """The most that requests and models may take, and the readings at which a level falls."""

    max_batch: Annotated[
        int,
        Setting(
            "Bounds the size of a message: that of so many samples of the largest model, but at least 4 MiB. Waiting "
            "requests are joined to runs of at most so many samples, and at most 16; 1: they never are.",
            least=1,
        ),
    ] = 64
    grace_s: Annotated[float, Setting("Seconds running requests get when the server stops.", least=0.0, live=True)] = (
        30.0
    )
    max_sequences: Annotated[
        int, Setting("Most sequences of requests whose state is kept at once, of all models; 0: none.", least=0)
    ] = 1024
    max_sequence_mb: Annotated[int, Setting("Most MiB of their states together.", least=0, most=2**40)] = 256
    sequence_idle_s: Annotated[
        float, Setting("Seconds without an answered request after which a sequence is forgotten.", least=0.001)
    ] = 60.0
    min_memory_mb: Annotated[
        int,
        Setting(
            "MiB of memory to leave available; below that, the level and what is resident fall. 0: off.",
            least=0,
            most=2**40,
            live=True,
        ),
    ] = 64
    max_temperature: Annotated[
        float | None,
        Setting(
            "°C of the hottest thermal zone above which the level falls; off by default.", least=0, most=150, live=True
        ),
    ] = None
    min_battery: Annotated[
        float | None,
        Setting(
            "Charge in % below which, while discharging, level 0 is the highest; off by default.",
            least=0,
            most=100,
            live=True,
        ),
    ] = None
    min_frequency: Annotated[
        float | None,
        Setting(
            "Share of the CPU's highest frequency below which the level falls; off by default.",
            least=0,
            most=0.9,
            live=True,
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Models(Group):
    """The models, and how they are served, where a table of their own says nothing else."""

    files: Annotated[tuple[Path, ...], Setting("Checkpoints; each is served under its file's stem.", flag=False)] = ()
    model_dir: Annotated[
        Path | None,
        Setting("Folder of models, as MODEL/1/model.safetensors; they can be loaded and unloaded by clients."),
    ] = None
    version_policy: Annotated[
        str,
        Setting(
            "Versions of a model of --model-dir that are served: `latest`, `latest:N`, `all` or `1,3`.",
            metavar="VERSIONS",
        ),
    ] = "latest"
    slo_ms: Annotated[
        float,
        Setting(
            "Milliseconds a request may take when it brings no deadline; the most any may take.", least=0.1, live=True
        ),
    ] = 1000.0
    level: Annotated[
        int | None, Setting("Serve every request at this level instead of choosing; -1 is the densest.", least=-1)
    ] = None
    policy: Annotated[str | None, Setting("How the level of a request is chosen: {policies}.", metavar="NAME")] = None
    threads: Annotated[
        int | None,
        Setting(
            "Threads per model; default: all usable cores, also when they change, or 1 where more do not pay.", least=1
        ),
    ] = None
    spin: Annotated[
        bool,
        Setting(
            "Threads wait awake between layers: faster with several threads on a device that runs nothing else, slower "
            "beside other work."
        ),
    ] = False
    profile_cache: Annotated[
        Literal["off"] | Path | None,
        Setting(
            "Folder in which measured latencies are kept between starts, or `off`; default: nested-sparse/profiles "
            "under $XDG_CACHE_HOME or ~/.cache.",
            metavar="DIR",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Fetching(Group):
    """The models that come from a file server, and how they are fetched."""

    urls: Annotated[
        tuple[str, ...], Setting("Addresses of checkpoints; each is served under its file's stem.", flag=False)
    ] = ()
    fetch_dir: Annotated[
        Path | None,
        Setting(
            "Folder in which fetched models are kept; default: nested-sparse/fetched under $XDG_DATA_HOME or "
            "~/.local/share.",
            metavar="DIR",
        ),
    ] = None
    fetch_interval_s: Annotated[
        float, Setting("Seconds between two looks for a new version; 0: only after SIGHUP.", least=0.0, most=2**31)
    ] = 300.0
    fetch_timeout_s: Annotated[
        float,
        Setting("Seconds without a byte after which a connection is given up, and resumed.", least=0.1, most=3600),
    ] = 30.0
    fetch_max_mb: Annotated[
        int, Setting("Most MiB on the disk of one model, its new version included.", least=1, most=2**40)
    ] = 4096
    fetch_ca: Annotated[
        Path | None, Setting("PEM file of the authorities of the file server's certificate; default: the system's.")
    ] = None
    fetch_token_file: Annotated[
        Path | None, Setting("File of a bearer token that the file server asks for, alone.")
    ] = None


@dataclass(frozen=True, slots=True)
class Watching(Group):
    """The server's reports about itself."""

    log_format: Annotated[
        str,
        Setting(
            "Lines of the log: `text` for people, `json` for programs.",
            choices=tuple(FORMATS),
            metavar="text|json",
            live=True,
        ),
    ] = "text"
    otlp_endpoint: Annotated[
        str | None,
        Setting(
            "URL of an OpenTelemetry collector (OTLP over gRPC, as http://127.0.0.1:4317), which gets a span of each "
            "request; off by default. Needs the [otel] extra.",
            metavar="URL",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class OwnModel(Group):
    """The table [model.NAME], which holds for one model alone. None: as for all models."""

    slo_ms: Annotated[float | None, Setting("As [models] slo_ms.", least=0.1, live=True)] = None
    priority: Annotated[
        int,
        Setting(
            "Of the models served together, the one with the higher number goes first.",
            least=-(2**31),
            most=2**31,
            live=True,
        ),
    ] = 0
    level: Annotated[int | None, Setting("As [models] level.", least=-1)] = None
    policy: Annotated[str | None, Setting("As [models] policy.")] = None
    threads: Annotated[int | None, Setting("As [models] threads.", least=1)] = None
    max_batch: Annotated[
        int | None, Setting("Most samples of waiting requests in one run; at most that of [limits].", least=1)
    ] = None
    state: Annotated[
        tuple[str, ...],
        Setting("OUTPUT=INPUT of a file that names no state: what a sequence keeps from request to request."),
    ] = ()
    min_memory_mb: Annotated[
        int | None, Setting("As in [limits], as are the next three.", least=0, most=2**40, live=True)
    ] = None
    max_temperature: Annotated[float | None, Setting("", least=0, most=150, live=True)] = None
    min_battery: Annotated[float | None, Setting("", least=0, most=100, live=True)] = None
    min_frequency: Annotated[float | None, Setting("", least=0, most=0.9, live=True)] = None
