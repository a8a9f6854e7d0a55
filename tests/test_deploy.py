"""Deployment: the files of docs/deploy, by the server's own command line and settings.

The manifests were also validated against KServe's published schemas (docs/deploy.md says how); these tests need nothing
but a reader of YAML.
"""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nested_sparse.serving import cli
from nested_sparse.serving.cluster.ingress import SERVICE_NAMES
from nested_sparse.serving.cluster.replica import check_settings, replica_settings
from support import EXAMPLE, ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

FILES = ROOT / "docs/deploy"
VERSION = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
UNIT = FILES / "nested-sparse.service"


def read(name: str) -> Any:
    """The one document of a YAML file."""
    return yaml.safe_load((FILES / name).read_text(encoding="utf-8"))


RUNTIME, SERVICE, RAY = read("kserve-runtime.yaml"), read("kserve-service.yaml"), read("ray-serve.yaml")


def unit() -> configparser.ConfigParser:
    """The sections of the systemd unit; of a key that stands twice the last one."""
    parser = configparser.ConfigParser(interpolation=None, strict=False, comment_prefixes=("#",), delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT, encoding="utf-8")
    return parser


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Containerfile, continued lines joined."""
    text = (FILES / "Containerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n", " ", lines)
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def checked(arguments: list[str]) -> dict[str, Any]:
    """The facts that `serve --check` tells of these arguments."""
    done = CliRunner().invoke(cli.app, [*arguments, "--check", "--json"])
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["problems"] == []
    return told


def settings_folder(folder: Path) -> Path:
    """serve.toml of docs/deploy, with a folder of models of this machine."""
    models = folder / "models"
    (models / "fashion-mnist/1").mkdir(parents=True)
    shutil.copy(EXAMPLE, models / "fashion-mnist/1/model.safetensors")
    text = (FILES / "serve.toml").read_text(encoding="utf-8")
    assert "/srv/models" in text
    (folder / "serve.toml").write_text(text.replace("/srv/models", str(models)))
    return folder / "serve.toml"


def test_the_arguments_of_the_kserve_container_serve_the_model_under_its_name(tmp_path: Path) -> None:
    """KServe puts the service's name in place of {{.Name}}, and the files of storageUri into /mnt/models."""
    (container,) = RUNTIME["spec"]["containers"]
    name = SERVICE["metadata"]["name"]
    (tmp_path / f"{name}.safetensors").symlink_to(EXAMPLE)
    arguments = [each.replace("{{.Name}}", name).replace("/mnt/models", str(tmp_path)) for each in container["args"]]
    told = checked(arguments)
    assert [model["name"] for model in told["models"]] == [name]
    (port,) = container["ports"]
    assert port["name"] == "h2c"  # by this name KServe and Knative know a port of gRPC
    assert told["addresses"]["gRPC"] == f"0.0.0.0:{port['containerPort']}"
    annotations = RUNTIME["spec"]["annotations"]
    assert told["addresses"]["metrics"] == f"0.0.0.0:{annotations['prometheus.kserve.io/port']}"
    assert annotations["prometheus.kserve.io/path"] == "/metrics"


def test_the_probes_ask_gRPC_for_health_at_the_servers_port() -> None:  # noqa: N802
    (container,) = RUNTIME["spec"]["containers"]
    for name in ("readinessProbe", "livenessProbe"):
        probe = container[name]["grpc"]
        assert probe["port"] == container["ports"][0]["containerPort"]
        assert probe.get("service", "") in ("", *SERVICE_NAMES)


def test_the_service_fits_its_runtime() -> None:
    assert (RUNTIME["apiVersion"], RUNTIME["kind"]) == ("serving.kserve.io/v1alpha1", "ServingRuntime")
    assert (SERVICE["apiVersion"], SERVICE["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    model = SERVICE["spec"]["predictor"]["model"]
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    assert model["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]
    formats = [(each["name"], each["version"]) for each in RUNTIME["spec"]["supportedModelFormats"]]
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in formats
    assert "image" not in SERVICE["spec"]["predictor"]


def test_every_container_is_an_ordinary_user_on_a_read_only_root() -> None:
    (container,) = RUNTIME["spec"]["containers"]
    security = container["securityContext"]
    user = next(rest for word, rest in instructions() if word == "USER").partition(":")[0]
    assert str(security["runAsUser"]) == user != "0"
    assert security["readOnlyRootFilesystem"] is security["runAsNonRoot"] is True
    assert security["allowPrivilegeEscalation"] is security["privileged"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    volumes = {each["name"] for each in RUNTIME["spec"]["volumes"]}
    assert {each["name"] for each in container["volumeMounts"]} == volumes
    cache = next(rest for word, rest in instructions() if word == "ENV")
    assert f"XDG_CACHE_HOME={container['volumeMounts'][0]['mountPath']}" in shlex.split(cache)


def test_the_image_has_a_folder_for_temporary_files() -> None:
    """Its root may be read-only, /tmp too (Docker). Beside TLS the server's calls to itself take a socket there."""
    settings = dict(each.split("=", 1) for word, rest in instructions() if word == "ENV" for each in shlex.split(rest))
    assert settings["TMPDIR"] == settings["XDG_CACHE_HOME"]


def test_the_image_has_this_version_and_its_command_serves(tmp_path: Path) -> None:
    (container,) = RUNTIME["spec"]["containers"]
    assert container["image"] == f"nested-sparse:{VERSION}"
    assert f"--tag {container['image']} " in (FILES / "Containerfile").read_text(encoding="utf-8")
    found = dict(instructions())
    assert json.loads(found["ENTRYPOINT"])[0].endswith("/nested-sparse")
    command = json.loads(found["CMD"])
    path = settings_folder(tmp_path)
    told = checked([str(path) if each.startswith("/etc/") else each for each in command])
    assert [model["name"] for model in told["models"]] == ["fashion-mnist"]
    assert told["addresses"]["gRPC"].rpartition(":")[2] == found["EXPOSE"]


def test_the_image_installs_the_wheel_of_dist_by_its_path() -> None:
    """By its name, a registry could give it another package."""
    steps = [rest for word, rest in instructions() if word == "RUN"]
    installs = [step for step in steps if "pip install" in step]
    assert len(installs) == 1
    assert "/dist/nested_sparse-*_" in installs[0]
    assert not re.search(r"pip install[^&]*[\" ]nested[-_]sparse", installs[0])
    assert ("COPY", "dist/ /dist/") in instructions()
    assert sum(word == "FROM" for word, _ in instructions()) == 2  # what builds is not what runs


def test_the_unit_serves_by_the_same_settings(tmp_path: Path) -> None:
    service = unit()["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert program.endswith("/bin/nested-sparse")
    path = settings_folder(tmp_path)
    told = checked([str(path) if each.startswith("/etc/") else each for each in arguments])
    assert [model["slo_ms"] for model in told["models"]] == [50.0]
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"  # read again, see docs/configuration.md


def test_the_unit_waits_longer_than_the_server_drains() -> None:
    from nested_sparse.serving.settings.groups import Limits

    assert float(unit()["Service"]["TimeoutStopSec"]) > Limits().grace_s
    assert SERVICE["spec"]["predictor"]["terminationGracePeriodSeconds"] > Limits().grace_s


def test_the_unit_hides_no_sensor() -> None:
    """/proc/stat and /proc/pressure are of no process, and ProcSubset=pid would hide them; cgroups tell the quota."""
    service = unit()["Service"]
    assert "ProcSubset" not in service
    assert service["ProtectControlGroups"] == "yes"
    assert service["DynamicUser"] == service["MemoryDenyWriteExecute"] == service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert service["Environment"].split() == ["XDG_CACHE_HOME=/var/cache", "XDG_DATA_HOME=/var/lib"]
    assert service["CacheDirectory"] == service["StateDirectory"] == "nested-sparse"


def test_the_application_of_ray_has_settings_that_a_replica_takes() -> None:
    (application,) = RAY["applications"]
    settings = replica_settings(application["args"], 1)
    check_settings(settings)
    assert settings.security.insecure  # Ray's ingress listens on every address
    assert settings.models.files == (Path("/srv/models/fashion-mnist.safetensors"),)


def test_the_names_that_ray_imports_exist() -> None:
    """Read from the sources: ray is not installed here."""
    (application,) = RAY["applications"]
    (deployment,) = application["deployments"]
    named = [
        application["import_path"],
        *RAY["grpc_options"]["grpc_servicer_functions"],
        deployment["autoscaling_config"]["policy"]["policy_function"],
    ]
    for each in named:
        module, _, name = each.partition(":")
        path = ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}, each
    source = ROOT.joinpath("serving/cluster/ray_serve.py").read_text(encoding="utf-8")
    assert f'APPLICATION = "{application["name"]}"' in source
    assert f'name="{deployment["name"]}",' in source
    assert RAY["grpc_options"]["enable_reflection"] is False
