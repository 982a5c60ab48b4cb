"""Kubernetes on machines of its own: etcd, the control plane, containerd, kubelet and kube-proxy; and more nodes.

Everything is where a distribution would have it (/etc/kubernetes, /var/lib/kubelet, /run/containerd, /opt/cni/bin,
/etc/cni/net.d), in the machine's own view. The network is somebody else's: the node is Ready once there is one.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from muslin import netns
from tests.kubernetes import images
from tests.kubernetes.machine import Machine, until
from tests.kubernetes.pki import Authority, key_pair

__all__ = ["ADMIN", "DAEMONS", "KUBELET", "POD_NETWORK", "SERVICE_NETWORK", "Node", "missing"]

BINARIES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl",
            "agnhost", "pause")
PROGRAMS = ("containerd", "ctr", "runc", "etcd", "iptables-save", "nft", "nsenter", "unshare", "sysctl")
DAEMONS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "containerd", "kubelet", "kube-proxy")
"""In the order in which they are started; the last three are all that a node beside the first has."""
ADMIN, KUBELET = "/etc/kubernetes/admin.conf", "/etc/kubernetes/kubelet.conf"
SERVICE_NETWORK, POD_NETWORK = "10.96.0.0/16", "192.168.0.0/16"
API_PORT = 6443
PATIENCE = 180.0
"""Seconds for one thing to happen: generous, for the machine may have other work."""
_ETCD = "http://127.0.0.1:2379"
_CONTAINERD = "/run/containerd/containerd.sock"
_PKI = "/etc/kubernetes/pki"


def missing() -> str:
    """What this host lacks for a node, "" if nothing."""
    if os.geteuid():
        return "root, for namespaces"
    place = os.environ.get("K8S_BIN", "")
    if not place:
        return f"K8S_BIN=DIRECTORY with {', '.join(BINARIES)}"
    for program in BINARIES:
        if not (Path(place) / program).is_file():
            return f"{program} in K8S_BIN={place}"
    for program in PROGRAMS:
        if not shutil.which(program):
            return f"the program {program}"
    return "" if Path("/bin/busybox").exists() else "busybox-static"


class Node(Machine):
    """One. `up` begins it and `remove` ends it; `stop`, `begin` and `restart` take one of DAEMONS each."""

    def __init__(self, name: str = "node1", *, conf_dir: str = "/etc/cni/net.d", bin_dir: str = "/opt/cni/bin",
                 report: Callable[[str], None] = print, first: Node | None = None) -> None:
        """`conf_dir` and `bin_dir` are where containerd looks for the network; `report` is told what is done.

        It is a cluster of its own, or one more node of that of `first`.
        """
        super().__init__(name, first)
        self.server = first.address if first else self.address
        self.runs = DAEMONS[-3:] if first else DAEMONS
        self.binaries = Path(os.environ["K8S_BIN"]).resolve()
        self.conf_dir, self.bin_dir = conf_dir, bin_dir
        self.report = report
        self.proxy_flags: tuple[str, ...] = ()
        """More flags of kube-proxy, from its next start on."""
        self.authority: Authority = first.authority if first else Authority()
        self._written = False

    # The whole.

    def up(self) -> None:
        """Boot it, with everything running and its images there. It is not Ready before it has a network."""
        self.report(f"{self.name}: booting in {self.directory}")
        self.boot()
        if not self._written:
            self._write()
            self._written = True
        for daemon in self.runs:
            self.begin(daemon)
        if not self.run("ctr", "--address", _CONTAINERD, "--namespace", "k8s.io", "images", "list", "--quiet").strip():
            with tempfile.TemporaryDirectory() as folder:
                for make in (images.pause, images.agnhost):
                    archive = Path(folder, f"{make.__name__}.tar")
                    make(archive, self.binaries)
                    self.import_image(archive)
        self.report(f"{self.name}: all of {', '.join(self.runs)} run")

    def reboot(self) -> None:
        """Power it off without a warning, and bring it up again."""
        self.power_off()
        self.up()

    def ready(self, patience: float = PATIENCE) -> None:
        """Wait until the node says that it is Ready and the default service account is there, so that pods can be."""
        until(self.is_ready, lambda: f"{self.name} is Ready\n{self.kubectl('describe', 'node', check=False)}", patience)
        until(lambda: self.kubectl("get", "serviceaccount", "default", check=False).count("\n") > 1,
              "there is a default service account", patience)
        self.report(f"{self.name}: Ready")

    def is_ready(self) -> bool:
        """Whether kubelet says so."""
        conditions = self.get("node", self.name).get("status", {}).get("conditions", ())
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    # Its parts.

    def begin(self, daemon: str) -> None:
        """Start a daemon, and wait until it answers."""
        command, answers = self._commands()[daemon]
        self.start(daemon, *command, environment={"KUBECONFIG": ADMIN, "HOME": "/root"})

        def well() -> bool:
            if self.daemons[daemon].entered.poll() is not None:
                raise AssertionError(f"{daemon} ended:\n{self.log(daemon)}")
            return not answers or _succeeds(self.entering(*answers))
        until(well, lambda: f"{daemon} answers\n{self.log(daemon)}", PATIENCE)

    def restart(self, daemon: str) -> None:
        """Stop a daemon as an operator does, and start it again."""
        self.stop(daemon)
        self.begin(daemon)

    def kubectl(self, *arguments: str, check: bool = True, text: str | None = None, timeout: float = 300.0) -> str:
        """Run kubectl as the administrator; returns what it printed."""
        return self.run(str(self.binaries / "kubectl"), *arguments, check=check, text=text, timeout=timeout,
                        environment={"KUBECONFIG": ADMIN, "HOME": "/root"})

    def get(self, *what: str) -> dict[str, Any]:
        """Objects, as kubectl gives them in JSON; an empty one if they are not there, or nobody answers."""
        said = self.kubectl("get", *what, "--output", "json", "--ignore-not-found", check=False)
        try:
            return dict(json.loads(said))
        except ValueError:
            return {}

    def apply(self, *objects: dict[str, Any]) -> None:
        """Have the API server store objects as they are here."""
        self.kubectl("apply", "--filename", "-", text=json.dumps({"apiVersion": "v1", "kind": "List",
                                                                  "items": list(objects)}))

    def fetch(self, url: str, *, outside: bool = False, timeout: float = 3.0) -> str:
        """What the node, or who is beyond its uplink, is answered over HTTP within seconds; "" if nothing."""
        def ask() -> str:
            try:
                with urlopen(f"http://{url}", timeout=timeout) as answer:
                    return str(answer.read().decode())
            except (OSError, HTTPException):
                return ""
        return netns.run(self.world if outside else self.netns, ask)

    def import_image(self, archive: Path) -> None:
        """Give containerd the images of an archive, as of `docker save`."""
        self.run("ctr", "--address", _CONTAINERD, "--namespace", "k8s.io", "images", "import", str(archive))

    def kubeconfig(self, path: str, user: str, *groups: str) -> None:
        """Write the machine a kubeconfig of a user with a certificate."""
        self.write(path, self._kubeconfig(*self.authority.issue(user, groups)))

    # How it is made.

    def _write(self) -> None:
        if "kube-apiserver" in self.runs:
            self._write_pki()
        self.kubeconfig(ADMIN, "admin", "system:masters")
        self.kubeconfig(KUBELET, f"system:node:{self.name}", "system:nodes")
        for name in {"kube-controller-manager", "kube-scheduler", "kube-proxy"} & set(self.runs):
            # All controllers of the manager do with its own rights what each would be bound to.
            groups = ("system:masters",) if name == "kube-controller-manager" else ()
            self.kubeconfig(f"/etc/kubernetes/{name}.conf", f"system:{name}", *groups)
        self.write("/etc/kubernetes/resolv.conf", "nameserver 127.0.0.1\n", 0o644)
        self.write("/etc/kubernetes/kubelet.yaml", json.dumps(self._kubelet()))
        self.write("/etc/containerd/config.toml", _containerd(self.bin_dir, self.conf_dir))
        for folder in (self.conf_dir, self.bin_dir):
            self.path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copy2("/usr/lib/cni/loopback", self.path(self.bin_dir))  # containerd itself calls it for every pod

    def _write_pki(self) -> None:
        certificate, key = self.authority.issue(
            "kube-apiserver", hosts=["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost",
                                     self.address, "127.0.0.1", SERVICE_NETWORK.replace(".0/16", ".1")])
        private, public = key_pair()
        for name, content in (("ca.crt", self.authority.certificate), ("apiserver.crt", certificate),
                              ("apiserver.key", key), ("sa.key", private), ("sa.pub", public)):
            self.write(f"{_PKI}/{name}", content)

    def _kubeconfig(self, certificate: str, key: str) -> str:
        def data(text: str) -> str:
            return base64.b64encode(text.encode()).decode()

        return json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"https://{self.server}:{API_PORT}",
                                                   "certificate-authority-data": data(self.authority.certificate)}}],
            "users": [{"name": "u", "user": {"client-certificate-data": data(certificate),
                                             "client-key-data": data(key)}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]})

    def _kubelet(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{self.label}", "cgroupsPerQOS": True,
            "enforceNodeAllocatable": [], "failSwapOn": False, "evictionHard": {}, "imageGCHighThresholdPercent": 100,
            "maxPods": 250, "readOnlyPort": 0, "resolvConf": "/etc/kubernetes/resolv.conf",
            # Its defaults, 5 a second, would be what is measured when many pods come at once.
            "kubeAPIQPS": 200, "kubeAPIBurst": 400, "eventRecordQPS": 0}

    def _commands(self) -> dict[str, tuple[list[str], list[str]]]:
        """Of each daemon what is run, and what succeeds once it answers."""
        def own(name: str, *flags: str) -> list[str]:
            return [str(self.binaries / name), *flags]

        def follows(name: str) -> str:
            return f"--kubeconfig=/etc/kubernetes/{name}.conf"

        ask = own("kubectl", f"--kubeconfig={ADMIN}", "--request-timeout=5s", "get")
        return {
            "etcd": (["etcd", "--data-dir=/var/lib/etcd/data", f"--listen-client-urls={_ETCD}",
                      f"--advertise-client-urls={_ETCD}", "--logger=zap", "--log-level=warn"],
                     ["/bin/busybox", "wget", "-q", "-O", "-", f"{_ETCD}/health"]),
            "kube-apiserver": (own(
                "kube-apiserver", f"--etcd-servers={_ETCD}", f"--secure-port={API_PORT}",
                f"--advertise-address={self.address}", f"--service-cluster-ip-range={SERVICE_NETWORK}",
                f"--client-ca-file={_PKI}/ca.crt", f"--tls-cert-file={_PKI}/apiserver.crt",
                f"--tls-private-key-file={_PKI}/apiserver.key", f"--service-account-key-file={_PKI}/sa.pub",
                f"--service-account-signing-key-file={_PKI}/sa.key",
                "--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
                "--kubelet-preferred-address-types=InternalIP"), [*ask, "--raw=/readyz"]),
            "kube-controller-manager": (own(
                "kube-controller-manager", follows("kube-controller-manager"), f"--root-ca-file={_PKI}/ca.crt",
                f"--service-account-private-key-file={_PKI}/sa.key", "--leader-elect=false", "--port=0",
                "--secure-port=0", "--kube-api-qps=200", "--kube-api-burst=400"), []),
            "kube-scheduler": (own("kube-scheduler", follows("kube-scheduler"), "--leader-elect=false", "--port=0",
                                   "--secure-port=0", "--kube-api-qps=200", "--kube-api-burst=400"), []),
            "containerd": (["containerd", "--config=/etc/containerd/config.toml"],
                           ["ctr", "--address", _CONTAINERD, "version"]),
            "kubelet": (own("kubelet", f"--kubeconfig={KUBELET}", "--config=/etc/kubernetes/kubelet.yaml",
                            "--container-runtime=remote", f"--container-runtime-endpoint=unix://{_CONTAINERD}",
                            f"--hostname-override={self.name}", f"--node-ip={self.address}"),
                        [*ask, "node", self.name]),
            # The limits of the connection table are the host's.
            "kube-proxy": (own("kube-proxy", follows("kube-proxy"), "--proxy-mode=iptables",
                               f"--cluster-cidr={POD_NETWORK}", f"--hostname-override={self.name}",
                               "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0",
                               "--conntrack-tcp-timeout-close-wait=0", *self.proxy_flags), []),
        }


def _containerd(bin_dir: str, conf_dir: str) -> str:
    # Without CAP_SYS_RESOURCE, as in a container or a small virtual machine, a pod's oom_score_adj can not be lowered,
    # and runc fails where it is asked to.
    return f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin_dir}"
    conf_dir = "{conf_dir}"
"""


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
                          timeout=60).returncode == 0
