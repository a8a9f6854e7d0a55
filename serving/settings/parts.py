"""Parts: the settings as the server, its models and the governor take them."""

from __future__ import annotations

from collections.abc import Callable

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime.policy import DEFAULT_POLICY
from nested_sparse.runtime.profiling import ProfileStore, default_folder
from nested_sparse.runtime.resources import Governor, LimitConfig

from ..load import ModelConfig
from ..repository.loader import Loader
from ..security import SecurityConfig
from ..sequences.store import SequenceLimits
from ..server import ServerConfig
from ..signature import PublicKey
from .groups import Limits, Models, OwnModel, Security
from .settings import Settings


def server_config(settings: Settings) -> ServerConfig:
    """The server's addresses and limits."""
    address, limits, security = settings.address, settings.limits, settings.security
    return ServerConfig(
        host=address.host,
        port=address.port,
        unix_socket=address.unix_socket,
        metrics_port=address.metrics_port,
        http_port=address.http_port,
        http_unix_socket=address.http_unix_socket,
        grace_s=limits.grace_s,
        otlp_endpoint=settings.watching.otlp_endpoint,
        request_samples=limits.max_batch,
        allow_shared_memory=security.allow_shared_memory,
        sequences=SequenceLimits(limits.max_sequences, limits.max_sequence_mb << 20, limits.sequence_idle_s),
        security=SecurityConfig(
            tls_cert=security.tls_cert,
            tls_key=security.tls_key,
            client_ca=security.client_ca,
            token_file=security.token_file,
            insecure=security.insecure,
        ),
    )


def model_config(own: OwnModel) -> ModelConfig:
    """How one model is served; `own` is Settings.of_model's, so each value is there that has no default."""
    assert own.slo_ms is not None
    assert own.max_batch is not None
    return ModelConfig(
        default_slo_ms=own.slo_ms,
        fixed_level=own.level,
        policy=own.policy or DEFAULT_POLICY,
        priority=own.priority,
        joined_samples=own.max_batch,
        choose_threads=own.threads is None,
        limits=limit_config(own),
        state=dict(pair.split("=", 1) for pair in own.state),
    )


def limit_config(limits: Limits | OwnModel) -> LimitConfig:
    """The readings at which a level falls."""
    return LimitConfig(
        min_available_memory_bytes=limits.min_memory_mb << 20 if limits.min_memory_mb else None,
        max_temperature_celsius=limits.max_temperature,
        min_frequency_share=limits.min_frequency,
        min_battery_percent=limits.min_battery,
    )


def loader_of(settings: Callable[[], Settings], governor: Governor) -> Loader:
    """How checkpoints are opened and served. settings: those in force when one is loaded."""
    models = settings().models
    return Loader(
        config_of=lambda name: model_config(settings().of_model(name)),
        threads_of=lambda name: settings().of_model(name).threads,
        spin=models.spin,
        profiles=profile_store(models),
        governor=governor,
        check=signature_check(settings().security),
    )


def signature_check(security: Security) -> Callable[[Checkpoint], None] | None:
    """The check of each checkpoint's signature; None: none is asked for. Raises InputError for a key that is none."""
    return None if security.check_signature is None else PublicKey(security.check_signature).check


def profile_store(models: Models) -> ProfileStore | None:
    """Where measured latencies are kept; None: nowhere."""
    if models.profile_cache == "off":
        return None
    folder = models.profile_cache or default_folder()
    return None if folder is None else ProfileStore(folder)
