import Testing

@testable import LaminaDaemon

@Suite("who gets plain layers under containerd")
struct PlainLayersPolicyTests {
    @Test("CRI's namespace is streamed, and all others are containerd's, by default")
    func defaults() {
        let configuration = Configuration()
        func streams(_ namespace: String) -> Bool {
            configuration.streamsPlainLayers(of: "registry.example/team/app:1", in: namespace)
        }
        #expect(streams("k8s.io"))
        for namespace in ["default", "moby", "buildkit", "", "k8s.io2"] { #expect(!streams(namespace), "\(namespace)") }
    }

    @Test("Docker's and BuildKit's stay containerd's where all are streamed")
    func all() {
        var configuration = Configuration()
        configuration.snapshotter.plainLayers = .stream
        func streams(_ namespace: String) -> Bool {
            configuration.streamsPlainLayers(of: "registry.example/team/app:1", in: namespace)
        }
        for namespace in ["k8s.io", "default", "other"] { #expect(streams(namespace), "\(namespace)") }
        for namespace in ["moby", "buildkit"] { #expect(!streams(namespace), "\(namespace)") }
        configuration.snapshotter.unpackedNamespaces = []
        #expect(streams("moby"))
        // In both lists: as if in none.
        configuration.snapshotter.unpackedNamespaces = ["k8s.io"]
        #expect(streams("k8s.io"))
        configuration.snapshotter.plainLayers = .containerd
        #expect(!streams("k8s.io"))
    }

    @Test("a repository goes before a namespace, and the longest that fits before the others")
    func repositories() {
        var configuration = Configuration()
        configuration.snapshotter.unpackedRepositories = ["registry.example", "docker.io/library/busybox"]
        configuration.snapshotter.streamedRepositories = ["registry.example/team"]
        func streams(_ reference: String, _ namespace: String) -> Bool {
            configuration.streamsPlainLayers(of: reference, in: namespace)
        }
        #expect(!streams("registry.example/other:1", "k8s.io"))
        #expect(streams("registry.example/team/app:1", "k8s.io"))
        #expect(streams("registry.example/team/app:1", "moby"))
        #expect(!streams("registry.example/teams/app:1", "moby"))
        #expect(!streams("busybox", "k8s.io"))
        #expect(streams("alpine", "k8s.io"))
        // What is no image of a registry has nobody to be streamed from.
        #expect(!streams("oci:/directory:1", "k8s.io") && !streams("", "k8s.io"))
    }
}
