import LaminaDigest
import LaminaOCI
import LaminaSnapshotter

#if Containerd
    import LaminaContainerd
#endif

/// What containerd is answered with.
struct ContainerdBackend: Sendable {
    var snapshotter: Snapshotter
    /// Where to keep the credentials that kubelet sends along with pulls; nil if CRI's image service should not be offered.
    var credentials: KeptCredentials?
    /// containerd's own socket.
    var imageServicePath: String
}

extension Engine {
    /// What answers containerd; it ends with the engine. Needs the file system.
    func makeContainerdBackend() throws -> ContainerdBackend {
        ContainerdBackend(
            snapshotter: try makeSnapshotter(), credentials: keptCredentials,
            imageServicePath: configuration.criKeychain.imageServicePath)
    }
}

extension Engine {
    /// Asks containerd whether the manifests that it has of a layer say what only clients say.
    func labelWitness() -> @Sendable (_ namespace: String, _ layer: Digest, _ prefix: String) throws -> Void {
        #if Containerd
            let path = configuration.snapshotter.containerdAddress
            return { namespace, layer, prefix in
                try ManifestWitness(socket: path).vouch(for: layer.description, in: namespace, prefix: prefix)
            }
        #else
            return { _, _, _ in }
        #endif
    }
}
