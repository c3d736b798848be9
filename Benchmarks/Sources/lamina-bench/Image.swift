import Foundation

/// An image of one layer, in an OCI layout directory.
struct Image {
    let name: String
    let layout: String

    /// The layer as a file.
    let layer: String
    private let manifest: String
    private let blobs: [String]

    /// Reads the layout's documents.
    init(name: String, layout: String) throws {
        (self.name, self.layout) = (name, layout)
        func document(_ path: String) throws -> [String: Any] {
            let data = try Data(contentsOf: URL(fileURLWithPath: path))
            guard let object = try JSONSerialization.jsonObject(with: data) as? [String: Any] else {
                throw Failure("\(path) is no JSON object")
            }
            return object
        }
        func digest(_ value: Any?) throws -> String {
            guard let text = (value as? [String: Any])?["digest"] as? String, text.hasPrefix("sha256:") else {
                throw Failure("\(layout): a descriptor has no digest")
            }
            return String(text.dropFirst(7))
        }
        manifest = try digest((try document(layout + "/index.json")["manifests"] as? [Any])?.first)
        let parts = try document("\(layout)/blobs/sha256/\(manifest)")
        guard let layers = parts["layers"] as? [Any], layers.count == 1 else {
            throw Failure("\(layout) is no image of one layer")
        }
        let only = try digest(layers[0])
        layer = "\(layout)/blobs/sha256/\(only)"
        blobs = [try digest(parts["config"]), only]
    }

    /// Puts the image into a registry's directory: links to its blobs, and the small files that name them.
    func register(in directory: String) throws {
        let root = directory + "/docker/registry/v2"
        let repository = "\(root)/repositories/\(name)"
        for hex in blobs + [manifest] {
            let place = "\(root)/blobs/sha256/\(hex.prefix(2))/\(hex)"
            try makeDirectory(place)
            guard link("\(layout)/blobs/sha256/\(hex)", place + "/data") == 0 || errno == EEXIST else {
                throw Failure.system("link \(place)")
            }
        }
        func mark(_ hex: String, _ place: String) throws {
            try makeDirectory("\(repository)/\(place)")
            try "sha256:\(hex)".write(toFile: "\(repository)/\(place)/link", atomically: false, encoding: .utf8)
        }
        for hex in blobs { try mark(hex, "_layers/sha256/\(hex)") }
        try mark(manifest, "_manifests/revisions/sha256/\(manifest)")
        try mark(manifest, "_manifests/tags/1/current")
        try mark(manifest, "_manifests/tags/1/index/sha256/\(manifest)")
    }
}
