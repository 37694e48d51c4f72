"""All configuration, read once at the roots (`app`, `cli`) from flags, environment, `.env` and a TOML file.

Knows what may be set and its defaults, not who uses it.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

MIB = 1024 * 1024
_CORES = len(os.sched_getaffinity(0))


def _memory() -> int:
    """Bytes of memory that this process may use: the container's limit where there is one, else the machine's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return min(machine, int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return machine


_MEMORY = _memory()


def _devices() -> tuple[str, ...]:
    """The accelerators of this machine, as torch counts them."""
    return tuple(f"cuda:{place}" for place, _ in enumerate(Path("/dev").glob("nvidia[0-9]*")))


class Settings(BaseSettings):
    """What an operator may set. Environment names are the fields' names with the prefix `MODELYARD_`."""

    model_config = SettingsConfigDict(
        env_prefix="MODELYARD_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    store: Path = Field(Path("models_store"), description="Folder of the store.")
    host: str = Field("127.0.0.1", description="Address to bind.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port to bind; 0 takes a free one.")
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Server processes behind the port; they share the weights of loaded versions."
    )
    process_timeout_s: Annotated[float, Field(ge=1, le=3600)] = Field(
        60.0, description="Of several server processes, one that gives no sign of life for so long is replaced."
    )
    grpc_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        None, description="Port of the Open Inference Protocol over gRPC; 0 takes a free one, none serves no gRPC."
    )
    database_url: str | None = Field(None, description="SQLAlchemy URL; the default is a SQLite file in the store.")
    allow_anonymous: bool = Field(False, description="Allow a public address although there are no API keys.")
    api_keys_file: Path | None = Field(None, description="TOML or JSON file of API keys; read again when it changes.")
    api_keys: str | None = Field(None, description="JSON list of API keys as in the file.", repr=False)
    key_failures_per_minute: Annotated[int, Field(ge=1)] = Field(
        10, description="Wrong API keys from one address that are answered 401; more get 429."
    )
    oidc_issuer: str | None = Field(None, description="Address of the OpenID Connect provider whose tokens are taken.")
    oidc_audience: str | None = Field(None, description="What must stand in the tokens' `aud`.")
    oidc_jwks_file: Path | None = Field(None, description="The provider's key set; else it is fetched from the issuer.")
    oidc_claim: str = Field("scope", description="The claim of a token that names scopes.")
    oidc_prefix: str = Field("modelyard:", description="What precedes the scopes' words in that claim.")
    metrics_public: bool = Field(False, description="/metrics needs no API key.")
    tls_certfile: Path | None = Field(None, description="PEM file of the certificate and its chain; serves HTTPS.")
    tls_keyfile: Path | None = Field(None, description="PEM file of the certificate's private key.")
    trusted_proxies: tuple[str, ...] = Field(
        (), description="Addresses or networks whose X-Forwarded-For and -Proto are believed (JSON list)."
    )
    header_timeout_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        10.0, description="Time in which a request's headers must arrive."
    )
    body_timeout_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        30.0, description="Time in which a request's body must arrive, beside what its size is given at the least rate."
    )
    body_bytes_per_s: Annotated[int, Field(ge=1)] = Field(
        64 * 1024, description="Least rate at which a large body must arrive."
    )
    max_connections: Annotated[int, Field(ge=1)] = Field(
        1024, description="Connections that are open at the same time; more get 503. Fewer where descriptors are few."
    )
    max_connections_per_address: Annotated[int, Field(ge=1)] = Field(
        256, description="Those of one address; loopback and trusted proxies may have all."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="Log lines for people or for machines; auto asks whether stderr is a terminal."
    )
    allowed_hosts: tuple[str, ...] = Field(
        ("*",),
        description="Host header values that are answered (JSON list); * answers all. Where it is not set, on loopback "
        "without keys, only addresses and names without a public domain are.",
    )

    job_slots: Annotated[int, Field(ge=1, le=256)] = Field(
        2 if _CORES >= 4 else 1, description="Jobs that run at the same time."
    )
    job_threads: Annotated[int, Field(ge=1, le=1024)] = Field(
        max(1, (_CORES - 1) // (2 if _CORES >= 4 else 1)), description="CPU threads of one job."
    )
    job_devices: tuple[Annotated[str, Field(pattern=r"^cuda:[0-9]{1,2}$")], ...] = Field(
        _devices(), description="Accelerators for jobs that ask for one (JSON list), one job at a time on each."
    )
    job_attempts: Annotated[int, Field(ge=1, le=100)] = Field(3, description="Attempts before a job is failed.")
    job_memory_bytes: Annotated[int, Field(ge=256 * MIB)] = Field(
        max(256 * MIB, _MEMORY * 3 // 4), description="Private memory that one worker may take."
    )
    job_timeout_s: Annotated[float, Field(gt=0)] = Field(86_400.0, description="Wall time that one attempt may take.")
    job_stall_s: Annotated[float, Field(gt=0)] = Field(
        60.0, description="A worker that reports nothing for so long is stopped as stalled."
    )
    max_queued_jobs: Annotated[int, Field(ge=1)] = Field(1000, description="Jobs that may wait; more get 429.")

    max_json_bytes: Annotated[int, Field(ge=1024)] = Field(16 * MIB, description="Largest body of predict and jobs.")
    max_binary_bytes: Annotated[int, Field(ge=1024)] = Field(
        128 * MIB, description="Largest body of an inference request under /v2 that brings its tensors as bytes."
    )
    max_bodies_bytes: Annotated[int, Field(ge=MIB)] = Field(
        max(256 * MIB, _MEMORY // 8),
        description="Memory for large bodies of predictions at the same time; more get 429. JSON counts eight times.",
    )
    max_document_bytes: Annotated[int, Field(ge=1024)] = Field(MIB, description="Largest body of other documents.")
    max_upload_bytes: Annotated[int, Field(ge=1024)] = Field(2048 * MIB, description="Largest upload.")
    max_rows: Annotated[int, Field(ge=1)] = Field(4096, description="Rows in one prediction.")
    max_elements: Annotated[int, Field(ge=1)] = Field(
        16_000_000, description="Numbers in one prediction, inputs and outputs each."
    )
    batch_mode: Literal["fast", "reproducible"] = Field(
        "fast", description="reproducible pads every forward pass, so that no answer's bits depend on what rides along."
    )
    batch_rows: Annotated[int, Field(ge=1, le=65536)] = Field(
        256, description="Rows of several requests that go into one forward pass."
    )
    batch_fixed_rows: Annotated[int, Field(ge=1, le=4096)] = Field(
        16, description="Rows of every forward pass in the reproducible mode."
    )
    batch_target_s: Annotated[float, Field(gt=0, le=60)] = Field(
        0.05, description="Latency beyond which no forward pass is made larger or waited for."
    )
    predict_queue_rows: Annotated[int, Field(ge=1)] = Field(
        4096, description="Rows that may wait for their forward pass; more get 429."
    )
    predict_max_wait_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        0.25,
        description="A prediction that would wait longer gets 429; two forward passes may always be waited for.",
    )
    model_memory_bytes: Annotated[int, Field(ge=MIB)] = Field(
        max(64 * MIB, _MEMORY // 2), description="Bytes of loaded versions before the least used one is let go."
    )
    reserve_bytes: Annotated[int, Field(ge=0)] = Field(
        256 * MIB, description="Free disk space that must remain before new work is taken."
    )

    drain_delay_s: Annotated[float, Field(ge=0, le=600)] = Field(
        0.0, description="After SIGTERM: how long requests are still accepted while /readyz already fails."
    )
    drain_timeout_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        25.0, description="After SIGTERM: how long requests in flight and workers may take to end."
    )

    @property
    def database(self) -> str:
        """The SQLAlchemy URL of the database."""
        return self.database_url or f"sqlite:///{self.store / 'modelyard.sqlite3'}"

    @property
    def has_keys(self) -> bool:
        """Whether API keys or tokens are asked for."""
        return self.api_keys_file is not None or self.api_keys is not None or self.oidc_issuer is not None

    @field_validator("store")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def public(self) -> bool:
        """Whether the address can be reached from other machines."""
        if self.host == "localhost":
            return False
        try:
            return not ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return True

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # unused: no folder of secrets is read
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flag > environment > `.env` > the TOML file named by MODELYARD_CONFIG > default."""
        sources = [init_settings, env_settings, dotenv_settings]
        config = os.environ.get("MODELYARD_CONFIG")
        if config:
            sources.append(TomlConfigSettingsSource(settings_cls, toml_file=Path(config)))
        return tuple(sources)
