# SPDX-License-Identifier: Apache-2.0
"""Network mode "bridge": each container is in a network namespace of its own, connected by CNI plugins.

To connect is: record, namespace, plugins, record of their result, files. Each step is recorded before it is done, and
disconnecting undoes the steps in reverse: what an agent leaves that dies between two steps, the next one finds and
removes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from typing import TYPE_CHECKING

from pycm.config.values import bridge_address
from pycm.errors import ConflictError, OperationFailedError, PycmError
from pycm.failpoints import fail_point
from pycm.model.container import Container, EndpointSettings, HostConfig, NetworkSettings
from pycm.model.defaults import BRIDGE
from pycm.model.frozen import replace
from pycm.network import conf, files, machine, publish
from pycm.network.plugins import Plugins, Records, Sandbox, find_address, iptables
from pycm.storage.files import open_regular
from pycm.storage.store import identifier
from pycm.waiting import Once

if TYPE_CHECKING:
    from collections.abc import Collection

    from pycm.config.types import Network as Options
    from pycm.network.conf import Addressing
    from pycm.network.files import ContainerFiles

log = logging.getLogger("pycm.network")


class BridgeNetwork:
    """The part of ports.Network for mode bridge. Call `prepare` first, once."""

    def __init__(self, home_dir: str, options: Options, files: ContainerFiles, etc: str = "/etc") -> None:
        self._home = home_dir
        self._files = files
        self._options = options.default_bridge
        self._etc = etc
        network = os.path.join(options.exec_root_dir, "network")
        self._data = os.path.join(network, "addresses")
        self._namespaces = os.path.join(options.exec_root_dir, "netns")
        self._records = Records(os.path.join(network, "sandboxes"))
        self._plugins = Plugins(options.cni_bin_dirs, os.path.join(network, "plugins.lock"))
        #: Held while the bridge is set up and ports are allocated.
        self._allocating = asyncio.Lock()
        self._refreshing = asyncio.Lock()
        self._other_address = Once()
        #: Whether the rule that an earlier agent with `icc = false` may have left is removed.
        self._joined = False

    # ── start of the agent ──

    async def prepare(self) -> None:
        """Read what earlier agents made. Log why the configured network is unusable now; it may be usable later."""
        await asyncio.to_thread(self._prepare)

    def _prepare(self) -> None:
        for container_id in self._records.load():
            self._records.sandboxes[container_id] = self._guessed(container_id)
        if not self._options.disable:
            try:
                self._check_machine()
            except (PycmError, OSError) as error:
                hint = f". {error.hint}" if isinstance(error, PycmError) and error.hint else ""
                text = (
                    "bridge network: unusable: %s (network mode bridge is refused until this has changed%s)"
                )
                log.warning(text, error, hint)

    def _check_machine(self) -> None:
        options = self._options
        machine.check_name(options.name)
        if options.ip4:
            wanted = bridge_address(options.ip4)
            if machine.interface_address(options.name) != wanted and not self._records.sandboxes:
                conf.check_free(wanted, machine.taken(options.name))

    def _guessed(self, container_id: str) -> Sandbox:
        """Replace a damaged record: plugins find what they have to undo by the container's id and address."""
        address = find_address(os.path.join(self._data, self._options.name), container_id)
        chain, result = conf.guess(self._options, self._data, address)
        return Sandbox(container_id, self._namespace(container_id), chain, result=result, address=address)

    async def clear(self, kept: Collection[str]) -> None:
        """Remove what was made for containers that are not *kept*, and update the hosts files of those that are."""
        for container_id in [name for name in self._records.sandboxes if name not in kept]:
            log.info("container %s: removing its network, which an earlier agent left", container_id)
            await self.disconnect(container_id)
        # In this order: what is made meanwhile is recorded first.
        present = await asyncio.to_thread(machine.list_namespaces, self._namespaces)
        known = {os.path.basename(sandbox.namespace) for sandbox in self._records.sandboxes.values()}
        for name in present:
            if name not in known:
                await self._remove_unknown(os.path.join(self._namespaces, name))
        await self._refresh()

    async def _remove_unknown(self, path: str) -> None:
        try:
            await asyncio.to_thread(machine.remove_namespace, path)
        except OperationFailedError as error:
            log.warning("bridge network: %s", error)

    # ── a container ──

    def check(self, container: Container) -> None:
        """Errors: ConflictError if this machine cannot give it its network, InvalidInputError if no machine can."""
        if self._options.disable:
            raise ConflictError(
                "network mode bridge is disabled (network.default_bridge.disable, or an error in section network)",
                hint="Use network mode host. The agent's log names an error in section network.",
            )
        host = container.host_config or HostConfig()
        asked = publish.wanted(host.port_mappings)
        if asked and not self._options.ip_tables:
            raise ConflictError(
                "port mappings need packet filter rules, but network.default_bridge.ip_tables is false"
            )
        plugins = conf.needed(self._options, publishes=bool(asked))
        self._plugins.check(plugins, packet_filter=self._options.ip_tables)

    async def connect(self, container: Container) -> Container:
        """Connect it completely, or leave nothing behind and raise the error."""
        await self._remove_rest(container.id)
        sandbox = await self._allocate(container)
        try:
            await asyncio.to_thread(machine.make_namespace, sandbox.namespace)
            fail_point("network.namespace-made")
            sandbox = await self._connect(sandbox)
            container = await asyncio.to_thread(self._write_files, container, sandbox)
            fail_point("network.files-written")
        except BaseException:
            await self.disconnect(container.id)
            raise
        await self._refresh()
        return container

    async def _remove_rest(self, container_id: str) -> None:
        """Remove the network of an earlier run. The container does not run, because it is about to be started."""
        if container_id in self._records.sandboxes:
            await self._disconnect(container_id)

    async def _allocate(self, container: Container) -> Sandbox:
        """Set up the bridge and allocate ports, one container at a time. The record makes them the container's own."""
        host = container.host_config or HostConfig()
        asked = publish.wanted(host.port_mappings)
        async with self._allocating:
            addressing = await self._set_up()
            others = {name: other.published for name, other in self._records.sandboxes.items()}
            published = await asyncio.to_thread(publish.choose, asked, others, container.id) if asked else ()
            sandbox = Sandbox(
                id=container.id,
                namespace=self._namespace(container.id),
                chain=tuple(conf.conf_list(self._options, addressing, self._data, published)),
                published=published,
                host_name=container.host_name,
                domain_name=container.domain_name,
                extra_hosts=host.extra_hosts,
                hosts_path=os.path.join(self._home, "containers", container.id, "hosts"),
            )
            await asyncio.to_thread(self._records.save, sandbox)
        fail_point("network.recorded")
        return sandbox

    async def _set_up(self) -> Addressing:
        in_use = any(sandbox.connected for sandbox in self._records.sandboxes.values())
        addressing = await asyncio.to_thread(self._make_bridge, in_use=in_use)
        if self._options.ip_tables:
            await self._set_separation()
        return addressing

    def _make_bridge(self, *, in_use: bool) -> Addressing:
        options = self._options
        current = machine.interface_address(options.name)
        taken = machine.taken(options.name)
        if not options.ip4:  # a configured network may contain the name server: it can be on the bridge
            taken += [
                conf.Taken(server, "a name server")
                for server in files.servers(files.read_resolv_conf(self._etc))
            ]
        addressing = conf.choose_network(options, current, taken, in_use=in_use)
        if options.ip4 and str(addressing.bridge) != options.ip4 and self._other_address.is_new():
            text = "bridge network: cannot use network.default_bridge.ip4 %s yet: containers are connected (keeping %s)"
            log.warning(text, options.ip4, addressing.bridge)
        machine.ensure_bridge(options.name, addressing.bridge, options.mtu)
        if options.ip_forward:
            machine.forward()
        return addressing

    async def _set_separation(self) -> None:
        """Without `icc`, drop packets that go from the bridge through the machine back to the bridge, also to published
        ports.

        The rule is in the chain that is evaluated before the own rules of the firewall plugin, which accept everything.
        """
        rule = (conf.ADMIN_CHAIN, "-i", self._options.name, "-o", self._options.name, "-j", "DROP")
        if self._options.icc:
            if not self._joined:
                while await iptables("-D", *rule):
                    pass
                self._joined = True
            return
        await iptables("-N", conf.ADMIN_CHAIN)
        if not await iptables("-C", *rule) and not await iptables("-I", *rule):
            raise OperationFailedError(
                f"cannot set the rule of network.default_bridge.icc: iptables -I {' '.join(rule)}"
            )

    async def _connect(self, sandbox: Sandbox) -> Sandbox:
        async def keep(sandbox: Sandbox) -> None:
            await asyncio.to_thread(self._records.save, sandbox)
            fail_point("network.result-recorded")

        sandbox = await self._plugins.add(sandbox, keep)
        endpoint = conf.parse_endpoint(sandbox.result or {})
        if not self._options.icc:
            await asyncio.to_thread(machine.isolate, endpoint.peer)
        sandbox = sandbox._replace(connected=True, address=endpoint.address)
        await asyncio.to_thread(self._records.save, sandbox)
        fail_point("network.connected")
        return sandbox

    def _write_files(self, container: Container, sandbox: Sandbox) -> Container:
        contents = {
            "hostname": f"{container.host_name}\n".encode(),
            "hosts": self._hosts(sandbox),
            "resolv.conf": files.resolv_conf(files.read_resolv_conf(self._etc)),
        }
        return replace(self._files.write(container, contents), network_settings=self._settings(sandbox))

    def _settings(self, sandbox: Sandbox) -> NetworkSettings:
        endpoint = conf.parse_endpoint(sandbox.result or {})
        settings = EndpointSettings(
            id=identifier("endpoint", sandbox.id),
            gateway=endpoint.gateway,
            ip_address=endpoint.address,
            mac_address=endpoint.mac,
            network_id=identifier("network", self._options.name),
        )
        return NetworkSettings(
            networks={BRIDGE: settings},
            sandbox_id=identifier("sandbox", sandbox.id),
            sandbox_key=sandbox.namespace,
            network_controller_id=identifier("controller", self._home),
        )

    def found(self, container: Container) -> Container:
        sandbox = self._records.sandboxes.get(container.id)
        known = sandbox is not None and sandbox.connected
        return (
            replace(container, network_settings=self._settings(sandbox)) if sandbox and known else container
        )

    async def disconnect(self, container_id: str) -> None:
        """The container has ended. What cannot be removed now stays recorded and is retried."""
        if container_id not in self._records.sandboxes:
            return
        try:
            await self._disconnect(container_id)
        except PycmError as error:
            text = "container %s: cannot remove its network: %s (retrying at its next start)"
            log.error(text, container_id, error.detail)
        await self._refresh()

    async def _disconnect(self, container_id: str) -> None:
        sandbox = self._records.sandboxes[container_id]
        # From now on it is not a peer of other containers.
        sandbox = self._records.sandboxes[container_id] = sandbox._replace(connected=False)
        exists = await asyncio.to_thread(os.path.exists, sandbox.namespace)
        await self._plugins.delete(sandbox if exists else sandbox._replace(namespace=""))
        await asyncio.to_thread(machine.remove_namespace, sandbox.namespace)
        fail_point("network.namespace-removed")
        await asyncio.to_thread(self._records.delete, container_id)
        fail_point("network.forgotten")

    def _namespace(self, container_id: str) -> str:
        return os.path.join(self._namespaces, identifier("sandbox", container_id)[:12])

    # ── hosts files ──

    async def _refresh(self) -> None:
        """Update the hosts files that name other containers, after a container was connected or disconnected."""
        async with self._refreshing:
            await asyncio.to_thread(self._files.as_containers_see_them, self._write_hosts)

    def _write_hosts(self) -> None:
        for sandbox in tuple(self._records.sandboxes.values()):
            if sandbox.connected and files.providers(sandbox.extra_hosts):
                try:
                    _rewrite(sandbox, self._hosts(sandbox))
                except OSError as error:
                    text = "container %s: cannot update %s: %s"
                    log.error(text, sandbox.id, sandbox.hosts_path, error.strerror)

    def _hosts(self, sandbox: Sandbox) -> bytes:
        peers = [
            files.Peer(other.host_name, other.address)
            for other in tuple(self._records.sandboxes.values())
            if other.connected
        ]
        own = files.Own(sandbox.address, sandbox.host_name, sandbox.domain_name)
        return files.hosts_file(own, sandbox.extra_hosts, peers, self._interface)

    def _interface(self, name: str) -> str:
        address = machine.interface_address(name or self._options.name)
        return str(address.ip) if address is not None else ""


def _rewrite(sandbox: Sandbox, wanted: bytes) -> None:
    """Rewrite a hosts file in place, in one write: a running container has it mounted and would not see a new file.

    The container may have written to it, so that only the lines of its extra hosts are replaced. Errors: OSError.
    """
    path = sandbox.hosts_path
    before = files.read(path)
    content = files.updated(before, wanted, sandbox.extra_hosts)
    if before == content:
        return
    descriptor = open_regular(path, os.O_WRONLY)
    try:
        if os.pwrite(descriptor, content, 0) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        os.ftruncate(descriptor, len(content))
    except OSError:  # the container has filled the tmpfs; the old content still has room
        os.pwrite(descriptor, before, 0)
        os.ftruncate(descriptor, len(before))
        raise
    finally:
        os.close(descriptor)
