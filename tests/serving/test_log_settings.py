"""Log settings and trace settings: the ones that are obeyed, and the ones that are refused."""

from __future__ import annotations

import logging

import grpc
import pytest
from clients import InferenceServerException, triton

LOG = logging.getLogger("nested_sparse.serving.anything")


def shown(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Severities that reach the log, of one record of each, and of another package's warning."""
    caplog.clear()
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        LOG.log(level, "x")
    logging.getLogger("other").warning("x")
    return [f"{record.name.partition('.')[0]} {record.levelname}" for record in caplog.records]


def test_severities_are_shown_and_hidden(model, serve, caplog):
    """All at once or none, and the server's end brings the first state back."""
    caplog.set_level(logging.INFO, "nested_sparse")
    caplog.handler.setLevel(logging.NOTSET)
    usual = [*(f"nested_sparse {level}" for level in ("INFO", "WARNING", "ERROR", "CRITICAL")), "other WARNING"]
    assert shown(caplog) == usual
    with serve([model]) as server, triton.InferenceServerClient(server.address) as client:
        settings = client.get_log_settings().settings
        assert settings["log_info"].bool_param
        assert settings["log_verbose_level"].uint32_param == 0
        assert settings["log_file"].string_param == ""
        answer = client.update_log_settings({"log_info": False, "log_error": False}).settings
        assert not answer["log_info"].bool_param
        assert answer["log_warning"].bool_param
        assert shown(caplog) == ["nested_sparse WARNING", "other WARNING"]
        with pytest.raises(InferenceServerException, match="'log_file' cannot be changed by a client"):
            client.update_log_settings({"log_info": True, "log_file": "/etc/passwd"})
        assert shown(caplog) == ["nested_sparse WARNING", "other WARNING"]
        client.update_log_settings({"log_info": True, "log_error": True, "log_verbose_level": 1, "log_file": ""})
        assert shown(caplog) == ["nested_sparse DEBUG", *usual]
        client.update_log_settings({"log_warning": False})
    assert shown(caplog) == usual


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"log_verbose": {"uint32_param": 1}}, "'log_verbose' is not known; expected one of 'log_info'"),
        ({"log_info": {"uint32_param": 1}}, "'log_info' has the wrong type: expected bool, got uint32"),
        ({"log_verbose_level": {"bool_param": True}}, "has the wrong type: expected uint32, got bool"),
        ({"log_error": {}}, "'log_error' has the wrong type: expected bool, got no value"),
        ({"log_format": {"string_param": "ISO8601"}}, "cannot be changed by a client; it is 'default'"),
    ],
)
def test_log_settings_that_cannot_be_obeyed(client, settings, part):
    request = triton.service_pb2.LogSettingsRequest()
    for name, value in settings.items():
        request.settings[name].MergeFrom(triton.service_pb2.LogSettingsRequest.SettingValue(**value))
    with pytest.raises(grpc.RpcError) as caught:
        client._client_stub.LogSettings(request)
    assert part in caught.value.details()
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_traces_are_off_and_stay_off(client):
    """The value "OFF" is obeyed, and so is the empty one, by which tritonclient clears a setting."""
    assert list(client.get_trace_settings().settings["trace_level"].value) == ["OFF"]
    client.update_trace_settings("net", {"trace_level": ["OFF"]})
    client.update_trace_settings(settings={"trace_level": None, "trace_rate": None})


@pytest.mark.parametrize(
    ("name", "settings", "status", "part"),
    [
        ("", {"trace_level": ["TIMESTAMPS"]}, "INVALID_ARGUMENT", "writes no traces, so 'TIMESTAMPS' cannot be obeyed"),
        ("", {"trace_file": "/etc/passwd"}, "INVALID_ARGUMENT", "'trace_file'"),
        ("", {"trace_count": "5"}, "INVALID_ARGUMENT", "'trace_count'"),
        ("", {"level": "OFF"}, "INVALID_ARGUMENT", "'level' is not known"),
        ("other", {"trace_level": ["OFF"]}, "NOT_FOUND", "no model 'other'"),
    ],
)
def test_trace_settings_that_cannot_be_obeyed(client, name, settings, status, part):
    with pytest.raises(InferenceServerException) as caught:
        client.update_trace_settings(name, settings)
    assert part in caught.value.message()
    assert caught.value.status() == f"StatusCode.{status}"
