"""Two stacks with a cluster: with the defaults, and with every option that its files depend on."""

from pathlib import Path

OPTIONS = {
    "kubernetesVersion": "1.36.3",
    "workerCount": "1",
    "endpointName": "api.example.com",
    "apiServerNames": '["k8s.example.org"]',
    "registryMirror": "https://registry.example:5000",
    "registryMirrorCa": (Path(__file__).parent / "registry-ca.crt").read_text(),
    "workerLabels": '["example.com/disk=ssd", "zone=a"]',
    "workerTaints": '["example.com/dedicated=batch:NoSchedule"]',
    "kubeletConfiguration": '{"maxPods": 50, "failCgroupV1": false, "failSwapOn": false}',
    "podNetwork": "172.20.0.0/16",
    "serviceNetwork": "172.21.0.0/16",
    "localApiEndpoint": "false",
    "networkPlugin": "none",
}
STACKS = {"kubernetes": {"kubernetesVersion": "1.37.2"}, "kubernetes-options": OPTIONS}
