# SPDX-License-Identifier: Apache-2.0
"""Registries over TLS: whom the agent believes, to whom it shows its certificate, and what of it stands in the configuration."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from agent_process import AgentProcess
from certificates import Authority
from containerd_server import ContainerdServer, private_containerd
from hostile_registry import HostileRegistry
from images import Image, base_layer, layer

from pycm.errors import PycmError, shorten
from pycm.registry.job import Access, Job, News
from pycm.registry.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def containerd() -> Iterator[ContainerdServer]:
    with private_containerd() as server:
        server.ctr("namespaces", "create", server.namespace)
        yield server


@pytest.fixture
def pull(containerd: ContainerdServer) -> Callable[..., News]:
    def do(reference: str, **access: Any) -> News:
        job = Job(
            containerd.address, containerd.namespace, "overlayfs", "test", reference, access=Access(**access)
        )
        return asyncio.run(Workers().run(job, lambda _: None))

    return do


def fresh(note: str) -> Image:
    return Image(layers=[base_layer(), layer({"note": note.encode()})])


def refused(pull: Callable[..., News], reference: str, **access: Any) -> str:
    with pytest.raises(PycmError) as caught:
        pull(reference, **access)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_registry_is_believed_by_its_authority_only(
    authority: Authority, pull: Callable[..., News], tmp_path: Path
) -> None:
    with HostileRegistry(tls=authority.server()) as registry:
        reference = registry.put(fresh("tls"), "tls/app", "1")
        assert "unable to get local issuer certificate" in refused(pull, reference)
        assert registry.requests == []
        other = Authority(tmp_path)
        assert "certificate" in refused(pull, reference, root_ca=str(other.ca))
        assert pull(reference, root_ca=str(authority.ca)).images == (reference,)


def test_a_certificate_for_another_host_is_refused(authority: Authority, pull: Callable[..., News]) -> None:
    with HostileRegistry(tls=authority.server("elsewhere.test")) as registry:
        reference = registry.put(fresh("other host"), "tls/app", "2")
        assert "localhost" in refused(pull, reference, root_ca=str(authority.ca))


def test_an_insecure_registry_may_have_any_certificate(
    authority: Authority, pull: Callable[..., News]
) -> None:
    with HostileRegistry(tls=authority.server("elsewhere.test")) as registry:
        reference = registry.put(fresh("insecure"), "tls/app", "3")
        assert pull(reference, insecure=True).images == (reference,)


def test_the_client_certificate_is_shown_to_its_registry(
    authority: Authority, pull: Callable[..., News]
) -> None:
    certificate, key = authority.issue("device")
    with HostileRegistry(tls=authority.server(clients=True)) as registry:
        reference = registry.put(fresh("mutual"), "tls/app", "4")
        refused(pull, reference, root_ca=str(authority.ca))
        access = {"root_ca": authority.ca, "client_cert": certificate, "client_key": key}
        assert pull(reference, **{name: str(path) for name, path in access.items()}).images == (reference,)


def test_files_that_cannot_be_used_are_named(
    authority: Authority, pull: Callable[..., News], tmp_path: Path
) -> None:
    with HostileRegistry(tls=authority.server()) as registry:
        reference = registry.put(fresh("files"), "tls/app", "5")
        missing = str(tmp_path / "none.crt")
        text = refused(pull, reference, root_ca=missing)
        assert shorten(missing) in text
        assert "No such file or directory" in text
        text = refused(pull, reference, root_ca=str(authority.ca), client_cert=str(authority.ca))
        assert "client_cert and client_key must be set together" in text


def test_a_login_is_not_sent_from_https_to_plain_http(
    authority: Authority, pull: Callable[..., News]
) -> None:
    with HostileRegistry() as plain, HostileRegistry(tls=authority.server()) as registry:
        reference = registry.put(fresh("downgrade"), "tls/app", "6")
        realm = {"WWW-Authenticate": f'Bearer realm="http://{plain.host}/token",service="x"'}
        registry.answer = lambda request: request.say(401, headers=realm)
        text = refused(pull, reference, root_ca=str(authority.ca), user="me", password="geheim")
        assert "not sent over plain http" in text
        assert plain.requests == []


def test_a_token_for_everybody_may_come_over_plain_http(
    authority: Authority, pull: Callable[..., News]
) -> None:
    """Registries behind a proxy that ends TLS name such realms; docker and containerd take them."""
    with HostileRegistry() as plain, HostileRegistry(tls=authority.server()) as registry:
        reference = registry.put(fresh("anonymous"), "tls/app", "8")
        plain.answer = lambda request: request.say(200, b'{"token": "t"}')
        realm = {"WWW-Authenticate": f'Bearer realm="http://{plain.host}/token",service="x"'}
        registry.answer = lambda request: (
            request.headers.get("Authorization") != "Bearer t" and request.say(401, headers=realm)
        )
        assert pull(reference, root_ca=str(authority.ca)).images == (reference,)
        assert [seen.authorization for seen in plain.requests] == [""]


def test_the_configuration_of_a_registry_leads_the_agent_in(
    authority: Authority, containerd: ContainerdServer, tmp_path: Path
) -> None:
    with HostileRegistry(tls=authority.server()) as registry:
        reference = registry.put(fresh("configured"), "tls/app", "7")

        def guarded(request: Any) -> bool:
            if request.headers.get("Authorization") == "Basic bWU6Z2VoZWlt":
                return False
            return bool(request.say(401, headers={"WWW-Authenticate": 'Basic realm="x"'}))

        registry.answer = guarded
        entry = f'registry_configurations."{registry.host}"'
        lines = (
            f'{entry}.transport.root_ca = "{authority.ca}"\n'
            f'{entry}.credentials.user_id = "me"\n'
            f'{entry}.credentials.password = "geheim"\n'
        )
        with AgentProcess(tmp_path, containerd, containers=lines) as agent:
            container_id = agent.run_container(reference, "cat", "/note")
            agent.wait_for(container_id, exited=True, exit_code=0)
            assert agent.logged(container_id) == ["configured"]
            assert "geheim" not in agent.text()
