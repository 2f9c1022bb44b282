"""A stack with a cluster, against mocks: the order of its steps, what is secret, and what an existing one refuses."""

import asyncio
from functools import cache
from typing import Any, cast

import pulumi
import pytest
import yaml

from components.departure import Departure, DepartureError
from components.host import StepError, UnreachableError
from dev.review.recording_cloud import RecordingCloud, Resource
from model.rendering import user_data
from tests.unit.example import example_values

VIP = "198.51.100.100"
PARENT = "urn:pulumi:test::openstack-ha-api::openstack-ha-api:kubernetes:Kubernetes"
STEP = f"{PARENT}$command:remote:Command::k8s-cp-0-kubernetes"
CERTIFICATE = f"{PARENT}$command:local:Command::k8s-admin-certificate"
# Without a line's end, which the plugin cuts off.
EXISTING: dict[str, dict[str, Any]] = {
    f"{STEP}-init": {
        "type": "command:remote:Command",
        "outputs": {"stdout": "version=1.37.2\npodNetwork=10.244.0.0/16\nserviceNetwork=10.96.0.0/16"},
    },
    f"{STEP}-network": {"type": "command:remote:Command", "outputs": {"stdout": "networkPlugin=flannel"}},
    f"{STEP}-version": {"type": "command:remote:Command", "outputs": {"stdout": "version=1.37.2"}},
    CERTIFICATE: {"type": "command:local:Command", "outputs": {"stdout": "{}"}},
}


@cache
def shared_run(preview: bool, existing: bool, changes: frozenset[tuple[str, str]]) -> RecordingCloud:
    cloud = RecordingCloud(preview=preview, state=EXISTING if existing else {})
    return cloud.run(example_values(**{"vip": VIP, "kubernetesVersion": "1.37"} | dict(changes)))


def run(preview: bool = False, /, existing: bool = False, **changes: str) -> RecordingCloud:
    # `cache` by itself would run again for `run(False)` after `run()`.
    return shared_run(preview, existing, frozenset(changes.items()))


def steps(cloud: RecordingCloud) -> dict[str, Resource]:
    """The cluster's, by host and step: cp-0-join."""
    found = cloud.of_type("remote:Command")
    return {
        name.removeprefix("k8s-").replace("kubernetes-", ""): it for name, it in found.items() if "kubernetes" in name
    }


def test_without_a_version_nothing_of_a_cluster_is_registered():
    cloud = run(kubernetesVersion="")
    assert not steps(cloud)
    assert not [it.name for it in cloud.resources if "kubernetes" in it.type.lower() or "certificate" in it.name]
    assert not [it for it in cloud.of_type("compute/instance:Instance").values() if hooks_of(cloud, it.name)]
    assert "kubeconfig" not in cloud.outputs
    assert "kubeadmConfig" in cloud.outputs


def test_every_host_of_the_cluster_gets_its_steps(preview: bool):
    assert steps(run(preview)).keys() == {
        *(f"{host}-{step}" for host in ("cp-0", "cp-1", "cp-2", "worker-0") for step in ("packages", "join")),
        *(f"cp-0-{step}" for step in ("version", "init", "network", "ready")),
        "worker-0-endpoint",
    }


def after(preview: bool, step: str, **changes: str) -> set[str]:
    found = steps(run(preview, False, **changes))[step].depends_on
    return {it.removeprefix("k8s-").replace("kubernetes-", "") for it in found}


def test_the_cluster_is_created_when_the_load_balancers_serve(preview: bool):
    assert {"cp-0-packages"} <= after(preview, "cp-0-init")
    assert {"cp-0-prepare", "cp-0-version"} <= after(preview, "cp-0-packages")
    assert "k8s-lb-1-configure" in run(preview).of_type("remote:Command")["k8s-cp-0-prepare"].depends_on


def test_control_planes_join_one_after_another_and_workers_together(preview: bool):
    assert {"cp-0-init", "cp-0-packages"} <= after(preview, "cp-0-join")
    for earlier, later in (("cp-0", "cp-1"), ("cp-1", "cp-2")):
        assert {f"{earlier}-join", f"{later}-packages"} <= after(preview, f"{later}-join")
    worker = after(preview, "worker-0-join")
    assert {"cp-0-join", "worker-0-endpoint"} <= worker
    assert not worker & {"cp-1-join", "cp-2-join"}


def test_a_worker_has_a_haproxy_with_all_api_servers_before_it_joins(preview: bool):
    assert "worker-0-packages" in after(preview, "worker-0-endpoint")
    script = steps(run())["worker-0-endpoint"].inputs["stdin"]
    assert all(f"    server k8s-cp-{index} " in script for index in range(3))
    assert "endpoint=https://127.0.0.1:6443" in steps(run())["worker-0-join"].inputs["stdin"]


def test_without_a_local_endpoint_a_worker_uses_the_vip():
    found = steps(run(localApiEndpoint="false"))
    assert "    server k8s-cp-0 " not in found["worker-0-endpoint"].inputs["stdin"]
    for name in ("worker-0-join", "cp-0-network"):
        assert "127.0.0.1:6443" not in found[name].inputs["stdin"]


def test_a_worker_s_haproxy_is_there_before_its_agents_use_it_and_gone_after(preview: bool):
    for step in ("worker-0-join", "cp-0-network"):
        assert "worker-0-endpoint" in after(preview, step)
    assert {"worker-0-join", "cp-0-network"} <= after(preview, "worker-0-endpoint", localApiEndpoint="false")


def test_packages_are_installed_on_all_hosts_at_once(preview: bool):
    for host in ("cp-1", "worker-0"):
        assert not {it for it in after(preview, f"{host}-packages") if it.endswith(("-packages", "-join"))}


def test_the_network_plugin_needs_one_member_and_readiness_needs_all(preview: bool):
    assert "cp-0-join" in after(preview, "cp-0-network")
    assert "cp-1-join" not in after(preview, "cp-0-network")
    assert {"cp-0-network", "cp-2-join", "worker-0-join"} <= after(preview, "cp-0-ready")


def test_the_cluster_is_created_once_in_the_stack_s_life():
    """A new instance of its first host joins; without these two it would become a second cluster."""
    step = steps(run())["cp-0-init"]
    assert list(step.registration.ignoreChanges) == ["*"]
    assert "triggers" not in step.inputs
    assert "*" not in step.registration.replaceOnChanges
    inputs = step.registration.propertyDependencies.values()
    assert not [
        urn for it in inputs for urn in it.urns if "compute/instance" in urn.rpartition("::")[0].rpartition("$")[2]
    ]


def test_the_version_is_settled_when_the_cluster_exists():
    assert list(steps(run())["cp-0-version"].registration.ignoreChanges) == []
    assert list(steps(run(existing=True))["cp-0-version"].registration.ignoreChanges) == ["*"]


def test_a_host_joins_again_on_a_new_instance():
    for host in ("cp-0", "worker-0"):
        assert steps(run())[f"{host}-join"].inputs["triggers"] == [f"id-of-k8s-{host}"]


def test_growing_touches_no_host_that_is_there():
    small, large = run(), run(controlPlaneCount="5", workerCount="3")
    for name, step in steps(small).items():
        same = steps(large)[name]
        # A HAProxy that learns of API servers is reloaded.
        if name not in ("cp-0-ready", "worker-0-endpoint"):
            assert (same.inputs["stdin"], same.inputs.get("triggers")) == (
                step.inputs["stdin"],
                step.inputs.get("triggers"),
            )


def test_all_hosts_get_the_version_that_was_found():
    for name, step in steps(run()).items():
        if name.endswith("-packages"):
            assert "version=1.37.2\n" in step.inputs["stdin"]
    assert run().outputs["kubernetesVersion"] == "1.37.2"


def test_keys_are_secrets_and_what_has_none_is_shown():
    cloud = run()
    for name, step in steps(cloud).items():
        assert step.is_secret("stdin") is name.endswith(("-init", "-join")), name
    authorities = cloud.of_type("local:Command")["k8s-certificate-authorities"]
    assert list(authorities.registration.additionalSecretOutputs) == ["stdout"]
    assert list(authorities.registration.ignoreChanges) == ["*"]
    assert cloud.of_type("local:Command")["k8s-admin-certificate"].is_secret("stdin")
    assert cloud.secret_outputs == {"kubeconfig"}
    assert not cloud.of_type("remote:Command")["k8s-lb-0-configure"].is_secret("stdin")


def test_an_encrypted_proxy_makes_the_packages_a_secret():
    cloud = RecordingCloud(secret_keys=RecordingCloud().secret_keys | {"aptProxy"})
    cloud.run(example_values(vip=VIP, kubernetesVersion="1.37", aptProxy="http://me:secret@proxy:3128"))
    for name in ("cp-0-version", "cp-0-packages", "worker-0-packages"):
        assert steps(cloud)[name].is_secret("stdin")


def test_the_load_balancers_verify_the_cluster_s_ca_from_the_first_configuration():
    script = run().of_type("remote:Command")["k8s-lb-0-configure"].inputs["stdin"]
    assert "verify required ca-file /etc/haproxy/ha-api/ca.pem" in script
    assert "(ca)\n" in script
    assert "(ca-key)" not in script


def test_the_kubeconfig_leads_to_the_endpoint():
    config = yaml.safe_load(run().outputs["kubeconfig"])
    assert config["clusters"][0]["cluster"]["server"] == f"https://{VIP}:6443"
    named = yaml.safe_load(run(endpointName="api.example.com").outputs["kubeconfig"])
    assert named["clusters"][0]["cluster"]["server"] == "https://api.example.com:6443"
    floating = yaml.safe_load(run(floatingNetwork="public").outputs["kubeconfig"])
    assert floating["clusters"][0]["cluster"]["server"] == "https://100.64.0.9:6443"


def test_the_api_servers_certificates_have_the_floating_ip():
    assert '"100.64.0.9"' in steps(run(floatingNetwork="public"))["cp-0-init"].inputs["stdin"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kubernetesVersion": "1.36"}, "cannot upgrade"),
        ({"kubernetesVersion": "1.37.3"}, 'use "1.37.2"'),
        ({"kubernetesVersion": ""}, "would be destroyed.*pulumi destroy --run-program --ignore-protect"),
        ({"apiServers": '["198.51.100.9"]'}, "apiServers.*would be destroyed"),
        ({"podNetwork": "10.245.0.0/16"}, "podNetwork = 10.245.0.0/16: the cluster has 10.244.0.0/16"),
        ({"networkPlugin": "none"}, "networkPlugin = none: .*list udp/8472"),
        ({"serviceNetwork": "10.97.0.0/16"}, "serviceNetwork = 10.97.0.0/16: the cluster has 10.96.0.0/16"),
    ],
)
def test_an_existing_cluster_keeps_its_version_and_is_not_turned_off(changes: dict[str, str], reason: str):
    cloud = RecordingCloud(state=EXISTING)
    with pytest.raises(pulumi.RunError, match=reason):
        cloud.run(example_values(**{"vip": VIP, "kubernetesVersion": "1.37"} | changes))
    assert cloud.resources == []


@pytest.mark.parametrize("changes", [{}, {"kubernetesVersion": "1.37.2"}], ids=["1.37", "1.37.2"])
def test_an_existing_cluster_accepts_its_own_version(changes: dict[str, str]):
    run(existing=True, **changes)


def test_a_version_that_was_only_asked_for_can_be_changed():
    """The first run failed before the cluster was created."""
    RecordingCloud(state={f"{STEP}-version": EXISTING[f"{STEP}-version"]}).run(
        example_values(vip=VIP, kubernetesVersion="1.36")
    )


def test_a_network_of_the_cluster_that_overlaps_the_subnet_is_refused():
    with pytest.raises(pulumi.RunError, match=r"podNetwork = 198.51.100.0/22: overlaps the hosts' subnet"):
        RecordingCloud().run(
            example_values(
                kubernetesVersion="1.37",
                podNetwork="198.51.100.0/22",
                adminCidrs='["203.0.113.0/28"]',
                apiAllowedCidrs="[]",
            )
        )


# ---- Leaving ---------------------------------------------------------------------------------------------------------


def hooks_of(cloud: RecordingCloud, name: str) -> list[str]:
    return list(cloud.of_type("compute/instance:Instance")[name].registration.hooks.before_delete)


def test_nodes_have_hooks_and_load_balancers_none():
    assert hooks_of(run(), "k8s-cp-1") == ["leave-cluster-cp"]
    assert hooks_of(run(), "k8s-worker-0") == ["leave-cluster-worker"]
    assert hooks_of(run(), "k8s-lb-0") == []


def test_the_end_of_the_cluster_is_noticed_before_its_instances_go():
    """Also of one that never became ready; and it is renewed in place, because a replacement is a deletion."""
    certificate = run().of_type("local:Command")["k8s-admin-certificate"]
    assert {"k8s-cp-0", "k8s-cp-1", "k8s-cp-2", "k8s-worker-0"} <= set(certificate.depends_on)
    assert list(certificate.registration.hooks.before_delete) == ["cluster-ends"]
    assert "triggers" not in certificate.inputs
    assert "*" not in certificate.registration.replaceOnChanges


def test_a_cluster_is_created_when_its_end_can_be_noticed():
    assert "k8s-admin-certificate" in steps(run())["cp-0-init"].depends_on


def waits_for(cloud: RecordingCloud, name: str) -> set[str]:
    """Names of the instances that must be there, or replaced, before a step is registered."""
    known = {(it.type, it.name): it for it in cloud.resources}
    found, left = set[tuple[str, str]](), [("command:remote:Command", name)]
    while left:
        key = left.pop()
        if key not in found and key in known:
            found.add(key)
            urns = [urn.split("::") for urn in known[key].registration.dependencies]
            left += [(parts[-2].rpartition("$")[2], parts[-1]) for parts in urns]
    return {name for kind, name in found if kind == "openstack:compute/instance:Instance"}


def test_a_host_that_is_replaced_joins_before_the_next_one_leaves():
    """The hook of the next one waits for that: a join that waited for all instances would wait for ever."""
    cloud = run(existing=True, workerCount="2")
    load_balancers = {"k8s-lb-0", "k8s-lb-1"}
    assert waits_for(cloud, "k8s-cp-0-kubernetes-join") == load_balancers | {"k8s-cp-0"}
    assert waits_for(cloud, "k8s-cp-1-kubernetes-join") == load_balancers | {"k8s-cp-0", "k8s-cp-1"}
    assert waits_for(cloud, "k8s-worker-1-kubernetes-join") == load_balancers | {"k8s-cp-0", "k8s-worker-1"}


def test_after_a_destroy_that_failed_half_way_no_host_leaves_what_is_gone(monkeypatch: pytest.MonkeyPatch):
    """The end was noticed by the run before: the certificate is gone."""
    state = {urn: it for urn, it in EXISTING.items() if urn != CERTIFICATE}
    cloud = RecordingCloud(state=state).run(example_values(vip=VIP, kubernetesVersion="1.37"))
    leaving = Leaving(monkeypatch, cloud)
    leaving.delete("leave-cluster-cp", "k8s-cp-1")
    assert leaving.hosts == []


def test_hooks_are_registered_also_when_the_cluster_is_not_wanted_any_more():
    """A first run that failed early left instances with hooks, and no cluster."""
    assert run(kubernetesVersion="").callbacks.hooks.keys() == run().callbacks.hooks.keys()


class Leaving:
    """A run of the hooks, with hosts that answer as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cloud: RecordingCloud) -> None:
        self.hooks = cloud.callbacks.hooks
        self.asked: list[tuple[str, str]] = []
        self.answers: dict[str, Exception] = {}
        self.leaving = ""
        self.logins: list[tuple[str, str]] = []
        self.itself: list[tuple[int, str]] = []
        """What the host that leaves ran, and after how many scripts of others."""
        self.itself_answers: Exception | None = None
        # What they remember of hosts that have left is forgotten after the test: other tests share the run.
        departure: Departure = cast("Any", self.hooks["cluster-ends"].callback).__self__
        for attribute, value in vars(departure).items():
            monkeypatch.setattr(departure, attribute, value)

        async def run(_: object, name: str, target: str, host_key: str, script: str) -> str:
            if name == self.leaving:
                self.logins.append((target, host_key))
                self.itself.append((len(self.asked), script))
                if self.itself_answers:
                    raise self.itself_answers
                return ""
            self.asked.append((name, script))
            if answer := self.answers.get(f"{name}, {len(self.asked)}", self.answers.get(name)):
                raise answer
            return "cordoned\n" if " drain " in script else ""

        for module in ("components.host", "components.departure"):
            monkeypatch.setattr(f"{module}.run_now", run)

    def delete(self, role: str, name: str, address: str = "198.51.100.21") -> None:
        self.leaving = name

        async def run_hook() -> None:
            args = cast("Any", pulumi.ResourceHookArgs)(
                urn="", id="", name=name, type="", old_outputs={"accessIpV4": address},
                old_inputs={"userData": pulumi.Output.secret(user_data("PRIVATE", "ssh-ed25519 LEAVING"))},
            )  # fmt: skip
            if result := self.hooks[role](args):
                await result

        asyncio.run(run_hook())

    @property
    def hosts(self) -> list[str]:
        return [name for name, _ in self.asked]


def test_a_control_plane_host_leaves_through_the_first_other_that_is_reachable(monkeypatch: pytest.MonkeyPatch):
    leaving = Leaving(monkeypatch, run(existing=True))
    leaving.answers["k8s-cp-1"] = UnreachableError("k8s-cp-1: timed out")
    leaving.delete("leave-cluster-cp", "k8s-cp-0")
    assert leaving.hosts == ["k8s-cp-1", "k8s-cp-2"] * 2
    assert "etcd.py spare 198.51.100.21 2" in leaving.asked[1][1]
    assert "etcd.py remove 198.51.100.21" in leaving.asked[3][1]


def test_its_api_server_ends_in_order_when_the_others_can_do_without_it(monkeypatch: pytest.MonkeyPatch):
    leaving = Leaving(monkeypatch, run(existing=True))
    leaving.delete("leave-cluster-cp", "k8s-cp-0")
    ((asked, script),) = leaving.itself
    assert asked == 1
    assert "stop kubelet" in script
    assert leaving.logins == [("debian@198.51.100.21", "ssh-ed25519 LEAVING")]


@pytest.mark.parametrize("error", [UnreachableError("no route"), StepError("no space left on device")])
def test_a_host_that_does_not_answer_or_cannot_end_its_api_server_leaves_all_the_same(
    monkeypatch: pytest.MonkeyPatch, error: Exception
):
    leaving = Leaving(monkeypatch, run(existing=True))
    leaving.itself_answers = error
    leaving.delete("leave-cluster-cp", "k8s-cp-0")
    assert "etcd.py remove 198.51.100.21" in leaving.asked[1][1]


def test_a_host_that_is_not_removed_starts_its_api_server_again_and_gets_pods(monkeypatch: pytest.MonkeyPatch):
    leaving = Leaving(monkeypatch, run(existing=True))
    leaving.answers["k8s-cp-1, 2"] = StepError("the member could not be removed from etcd")
    with pytest.raises(DepartureError, match="could not be removed from etcd"):
        leaving.delete("leave-cluster-cp", "k8s-cp-0")
    assert leaving.itself[-1] == (2, "systemctl start kubelet\n")
    assert "uncordon k8s-cp-0" in leaving.asked[1][1]


def test_a_host_that_is_neither_removed_nor_reached_again_is_reported(monkeypatch: pytest.MonkeyPatch):
    leaving = Leaving(monkeypatch, run(existing=True))
    leaving.answers["k8s-cp-1, 2"] = StepError("the member could not be removed from etcd")
    leaving.itself_answers = UnreachableError("no route")
    with pytest.raises(DepartureError, match=r"from etcd; .*start kubelet` on k8s-cp-0 \(no route\)"):
        leaving.delete("leave-cluster-cp", "k8s-cp-0")


def test_a_host_that_was_shrunk_away_leaves_through_those_that_stay(monkeypatch: pytest.MonkeyPatch):
    leaving = Leaving(monkeypatch, run(existing=True, controlPlaneCount="1"))
    leaving.delete("leave-cluster-cp", "k8s-cp-2", "198.51.100.23")
    assert leaving.hosts == ["k8s-cp-0"] * 2
    assert "spare 198.51.100.23 1" in leaving.asked[0][1]


def test_a_worker_leaves_without_a_word_to_etcd(monkeypatch: pytest.MonkeyPatch):
    leaving = Leaving(monkeypatch, run(existing=True))
    leaving.delete("leave-cluster-worker", "k8s-worker-7", "198.51.100.38")
    assert leaving.hosts == ["k8s-cp-0"] * 2
    for _, script in leaving.asked:
        assert "etcd" not in script.replace("# ", "").partition("main()")[2]
    assert "drain k8s-worker-7" in leaving.asked[0][1]
    assert "delete node k8s-worker-7" in leaving.asked[1][1]
    assert leaving.itself == []


def test_a_refusal_is_final_and_has_the_host_s_reason(monkeypatch: pytest.MonkeyPatch):
    leaving = Leaving(monkeypatch, run(existing=True))
    leaving.answers["k8s-cp-0"] = StepError("etcd would lose its majority")
    with pytest.raises(DepartureError, match="lose its majority"):
        leaving.delete("leave-cluster-cp", "k8s-cp-1")
    assert leaving.hosts == ["k8s-cp-0"]


def test_a_worker_that_left_in_the_same_run_has_to_be_back_unless_it_was_shrunk_away(monkeypatch: pytest.MonkeyPatch):
    leaving = Leaving(monkeypatch, run(existing=True, workerCount="3"))
    for name in ("k8s-worker-3", "k8s-worker-0", "k8s-worker-1"):
        leaving.delete("leave-cluster-worker", name)
    scripts = [script for _, script in leaving.asked if " drain " in script]
    assert ["does not leave, because" in script for script in scripts] == [False, False, True]
    assert "returning=(k8s-worker-0)" in scripts[2]


def test_after_a_refusal_no_other_host_leaves_in_this_run(monkeypatch: pytest.MonkeyPatch):
    """The engine creates nothing more, so those that left would be missing."""
    leaving = Leaving(monkeypatch, run(existing=True))
    leaving.answers["k8s-cp-0"] = StepError("not all of them are Ready again")
    with pytest.raises(DepartureError, match="Ready again"):
        leaving.delete("leave-cluster-worker", "k8s-worker-1")
    for role, name in (("worker", "k8s-worker-2"), ("cp", "k8s-cp-1")):
        with pytest.raises(DepartureError, match=f"{name} stays, because k8s-worker-1 could not leave"):
            leaving.delete(f"leave-cluster-{role}", name)
    assert leaving.hosts == ["k8s-cp-0"]


def test_the_only_control_plane_host_is_kept(monkeypatch: pytest.MonkeyPatch):
    leaving = Leaving(monkeypatch, run(existing=True, controlPlaneCount="1"))
    with pytest.raises(DepartureError, match=r"only control-plane host.*set controlPlaneCount to 3"):
        leaving.delete("leave-cluster-cp", "k8s-cp-0")


def test_a_host_is_kept_if_no_other_is_reachable(monkeypatch: pytest.MonkeyPatch):
    leaving = Leaving(monkeypatch, run(existing=True))
    for name in ("k8s-cp-0", "k8s-cp-1", "k8s-cp-2"):
        leaving.answers[name] = UnreachableError(f"{name}: no route to host")
    with pytest.raises(DepartureError, match="k8s-cp-0: no route to host; k8s-cp-1: no route"):
        leaving.delete("leave-cluster-worker", "k8s-worker-0")


def test_nothing_leaves_when_the_cluster_ends_or_never_was(monkeypatch: pytest.MonkeyPatch):
    ends = Leaving(monkeypatch, run(existing=True))
    ends.delete("cluster-ends", "k8s-admin-certificate")
    ends.delete("leave-cluster-cp", "k8s-cp-0")
    never = Leaving(monkeypatch, run())
    never.delete("leave-cluster-cp", "k8s-cp-0")
    assert ends.hosts == never.hosts == []


def test_an_instance_that_nova_could_not_build_has_nothing_to_leave(monkeypatch: pytest.MonkeyPatch):
    leaving = Leaving(monkeypatch, run(existing=True))
    leaving.delete("leave-cluster-cp", "k8s-cp-2", address="")
    assert leaving.hosts == []


def test_a_node_of_another_flavor_is_replaced_not_resized():
    for name in ("k8s-cp-0", "k8s-worker-0"):
        instance = run().of_type("compute/instance:Instance")[name]
        assert {"imageId", "flavorId"} <= set(instance.registration.replaceOnChanges)
        bare = run(kubernetesVersion="").of_type("compute/instance:Instance")[name]
        assert "flavorId" not in bare.registration.replaceOnChanges
