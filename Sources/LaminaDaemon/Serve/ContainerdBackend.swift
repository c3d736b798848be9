import LaminaOCI
import LaminaSnapshotter

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
