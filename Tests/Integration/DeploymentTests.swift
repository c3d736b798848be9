import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("what config/ has for containerd and Kubernetes")
    struct Deployment {
        private static let configuration: String = {
            // …/Tests/Integration/DeploymentTests.swift
            let parts = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3)
            return parts.joined(separator: "/") + "/config"
        }()

        // Debian's does not know a version 3.
        @Test("containerd takes the snippet for 1.6 as it is meant", Containerd.isInstalled)
        func containerd() throws {
            let path = Self.configuration + "/containerd/containerd-1.6.toml"
            let outcome = try run(["containerd", "-c", path, "config", "dump"]).orThrow()
            #expect(!outcome.errors.contains("level="), "\(outcome.errors)")
            let lines = outcome.output.split(separator: "\n").map { $0.drop { $0 == " " } }
            for line in [
                "[proxy_plugins.lamina]", "address = \"/run/lamina/lamina.sock\"", "snapshotter = \"lamina\"",
                "disable_snapshot_annotations = false", "discard_unpacked_layers = true",
            ] {
                #expect(lines.contains { $0 == line }, "\(line)\n\(outcome.output)")
            }
        }

        /// `FILE DIRECTORY FILE`: the documents of a manifest, and those of the kustomization in a directory, as JSON; and those of
        /// what gives it rights.
        private static let manifests = """
            import json, os, sys, yaml
            def load(path):
                with open(path) as file: return [document for document in yaml.safe_load_all(file) if document]
            plain, directory = load(sys.argv[1]), sys.argv[2]
            kustomization, = load(directory + "/kustomization.yaml")
            # Nothing else of kustomize is used: what it makes is its resources one after the other.
            assert set(kustomization) == {"apiVersion", "kind", "resources"}, list(kustomization)
            parts = [document for name in kustomization["resources"] for document in load(f"{directory}/{name}")]
            assert sorted(kustomization["resources"] + ["kustomization.yaml"]) == sorted(os.listdir(directory))
            assert plain == parts, "lamina.yaml differs from kustomize"
            kinds = {document["kind"]: document for document in plain}
            kinds["rights"] = {document["kind"]: document for document in load(sys.argv[3])}
            print(json.dumps(kinds))
            """

        /// What the manifests need so that the mounts are visible on the node, and the probes ask for the right thing.
        private static let facts = """
            import json, sys, tomllib
            kinds = json.load(sys.stdin)
            space = kinds["Namespace"]["metadata"]["name"]
            for kind in ["ServiceAccount", "ConfigMap", "DaemonSet"]:
                assert kinds[kind]["metadata"]["namespace"] == space, kind
            daemon = kinds["DaemonSet"]["spec"]
            assert daemon["selector"]["matchLabels"] == daemon["template"]["metadata"]["labels"]
            assert daemon["updateStrategy"]["type"] == "OnDelete"
            pod = daemon["template"]["spec"]
            account = kinds["ServiceAccount"]["metadata"]["name"]
            assert pod["serviceAccountName"] == account and pod["hostNetwork"]
            # Nothing of the cluster's is needed, so nothing of it may be had, but where somebody says so.
            assert not any("Role" in kind for kind in kinds)
            rights = kinds["rights"]
            assert set(rights) == {"ServiceAccount", "ConfigMap", "ClusterRole", "ClusterRoleBinding"}
            # A token is where it is used, and nowhere else.
            assert kinds["ServiceAccount"]["automountServiceAccountToken"] is False
            assert rights["ServiceAccount"]["metadata"]["name"] == account
            assert rights["ServiceAccount"]["automountServiceAccountToken"] is True
            assert "automountServiceAccountToken" not in pod
            assert rights["ClusterRole"]["rules"] == [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]
            binding = rights["ClusterRoleBinding"]
            assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": space}]
            assert binding["roleRef"]["name"] == rights["ClusterRole"]["metadata"]["name"]
            container, = pod["containers"]
            variable, = container["env"]
            assert variable["name"] == "LAMINA_KUBECONFIG_KEYCHAIN_ENABLE_KEYCHAIN"
            reference = variable["valueFrom"]["configMapKeyRef"]
            said = rights["ConfigMap"]
            assert reference["optional"] and reference["name"] == said["metadata"]["name"]
            assert said["metadata"]["namespace"] == space and said["data"][reference["key"]] == "true"
            assert container["securityContext"]["privileged"]
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert {mount["name"] for mount in mounts.values()} == set(volumes)
            text = kinds["ConfigMap"]["data"]["config.toml"]
            settings = tomllib.loads(text)
            store = mounts[settings["store"]["root"]]
            assert store["mountPropagation"] == "Bidirectional"
            assert volumes[store["name"]]["hostPath"]["path"] == settings["store"]["root"]
            socket = settings["snapshotter"]["address"].rpartition("/")[0]
            assert volumes[mounts[socket]["name"]]["hostPath"]["path"] == socket
            assert volumes[mounts["/dev/fuse"]["name"]]["hostPath"] == {"path": "/dev/fuse", "type": "CharDevice"}
            file = container["args"][container["args"].index("--config") + 1]
            assert volumes[mounts[file.rpartition("/")[0]]["name"]]["configMap"]["name"] == kinds["ConfigMap"]["metadata"]["name"]
            host, port = settings["metrics"]["address"].split(":")
            for probe in ["startupProbe", "readinessProbe"]:
                assert container[probe]["httpGet"] == {"host": host, "port": int(port), "path": "/readyz"}, probe
            assert "livenessProbe" not in container
            with open(sys.argv[1], "w") as output: output.write(text)
            print(" ".join(container["args"]))
            """

        @Test(
            "the manifest is the kustomization in one file; mounts reach the node, and probes ask what the server answers",
            Requirements.pythonModule("yaml"))
        func kubernetes() throws {
            try Sandbox.with { sandbox in
                let directory = Self.configuration + "/kubernetes"
                let words = [
                    "/usr/bin/python3", "-c", Self.manifests, directory + "/lamina.yaml", directory + "/kustomize",
                    directory + "/pull-secrets.yaml",
                ]
                let documents = try run(words).orThrow()
                let json = sandbox.directory + "/manifests.json"
                try write(documents.output.utf8, to: json)
                let file = sandbox.directory + "/config.toml"
                let checked = try run(
                    ["/bin/sh", "-c", "exec /usr/bin/python3 -c \"$1\" \"$2\" <\"$3\"", "sh", Self.facts, file, json]
                ).orThrow()
                // lamina takes the configuration and the command line.
                let taken = try sandbox.attempt("config", "check", "--config", file)
                #expect(taken.exitCode == 0 && taken.errors.isEmpty, "\(taken)")
                let told = try run([
                    "env", "LAMINA_KUBECONFIG_KEYCHAIN_ENABLE_KEYCHAIN=true", Requirements.lamina, "config", "show",
                    "--config", file,
                ]).orThrow().output
                #expect(told.contains("[kubeconfig_keychain]\nenable_keychain = true\n"), "\(told)")
                #expect(checked.output == "serve --supervise --config /etc/lamina/config.toml\n")
            }
        }
    }
}
