/// What of a lazy layer is fetched before it is opened.
public struct LayerFetching: Sendable, Equatable {
    /// What the image marks to come first, and what was opened first in an earlier container of it.
    public var first = true
    /// Everything.
    public var whole = true

    public init(first: Bool = true, whole: Bool = true) { (self.first, self.whole) = (first, whole) }

    /// Labels with this prefix come from a client, or from the annotations of a layer in its manifest, which clients pass on.
    private static let prefix = "containerd.io/snapshot/lamina."

    /// What an image's labels say, else the default. A value that is neither yes nor no counts as absent.
    init(labels: [String: String], standard: LayerFetching) {
        func value(_ name: String) -> Bool? {
            switch labels[Self.prefix + name]?.lowercased() {
            case "true", "1": true
            case "false", "0": false
            default: nil
            }
        }
        first = value("prefetch") ?? standard.first
        whole = value("background_merge") ?? standard.whole
    }
}
