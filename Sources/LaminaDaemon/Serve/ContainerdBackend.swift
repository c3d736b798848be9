import Glibc
import LaminaOCI
import LaminaSnapshotter
import LaminaSystem

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
    ///
    /// Without a socket at its address there is no containerd to ask, and the labels are believed: no image can take the socket away. One
    /// that is there and does not answer is a containerd that restarts, and labels wait for it.
    func labelWitness() -> @Sendable (_ namespace: String, _ chain: String) throws -> Void {
        #if Containerd
            let path = configuration.snapshotter.containerdAddress
            let isTold = Monitor(false)
            let witness = ManifestWitness(socket: path)
            return { [log] namespace, chain in
                if access(path, F_OK) != 0, errno == ENOENT {
                    let isFirst = isTold.withLock { told in
                        defer { told = true }
                        return !told
                    }
                    if isFirst {
                        log.warning(
                            "labels say which images layers are of, and no containerd is there to be asked whether an image says so itself: they are believed. Name its socket by [snapshotter] containerd_address",
                            metadata: ["socket": "\(path)"])
                    }
                    return
                }
                try witness.vouch(for: chain, in: namespace)
            }
        #else
            return { _, _ in }
        #endif
    }
}
