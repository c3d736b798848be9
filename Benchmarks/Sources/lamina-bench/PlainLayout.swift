import Foundation

/// An OCI layout of ordinary layers, as other tools make it.
struct PlainLayout {
    let directory: String

    func write(files: String) throws {
        let layer = directory + "/layer"
        let compressor = isInstalled("pigz") ? "pigz" : "gzip"
        // The tar's own digest is computed on its way.
        let diffID = String(
            try run([
                "bash", "-c",
                "set -o pipefail; tar -C \"$1\" -c . | tee >(\(compressor) -6 -n > \"$2\") | sha256sum", "bench", files,
                layer,
            ]).output.prefix(64))
        try writeImage([try addLayer(layer, type: "tar+gzip")], diffIDs: [diffID])
    }

    /// An image of these tars, the lowest first; they are moved into the layout.
    func write(tars: [String]) throws {
        let layers = try tars.map { try addLayer($0, type: "tar") }
        try writeImage(layers, diffIDs: layers.compactMap { ($0["digest"] as? String).map { String($0.dropFirst(7)) } })
    }

    private func addLayer(_ path: String, type: String) throws -> [String: Any] {
        let (size, hex) = (fileSize(path), try digest(path))
        try place(path, hex)
        return ["mediaType": "application/vnd.oci.image.layer.v1.\(type)", "digest": "sha256:\(hex)", "size": size]
    }

    private func writeImage(_ layers: [[String: Any]], diffIDs: [String]) throws {
        let config = try add(
            [
                "architecture": "amd64", "os": "linux",
                "rootfs": ["type": "layers", "diff_ids": diffIDs.map { "sha256:\($0)" }],
            ], type: "application/vnd.oci.image.config.v1+json")
        let manifest = try add(
            [
                "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
                "layers": layers,
            ], type: "application/vnd.oci.image.manifest.v1+json")
        try document(["schemaVersion": 2, "manifests": [manifest]], at: directory + "/index.json")
        try document(["imageLayoutVersion": "1.0.0"], at: directory + "/oci-layout")
    }

    /// Stores a document as a blob; returns its descriptor.
    private func add(_ object: [String: Any], type: String) throws -> [String: Any] {
        let path = directory + "/document"
        try document(object, at: path)
        let (size, hex) = (fileSize(path), try digest(path))
        try place(path, hex)
        return ["mediaType": type, "digest": "sha256:\(hex)", "size": size]
    }

    private func document(_ object: [String: Any], at path: String) throws {
        try JSONSerialization.data(withJSONObject: object, options: [.sortedKeys, .withoutEscapingSlashes])
            .write(to: URL(fileURLWithPath: path))
    }

    private func digest(_ path: String) throws -> String { String(try run(["sha256sum", path]).output.prefix(64)) }

    private func place(_ path: String, _ hex: String) throws {
        guard rename(path, "\(directory)/blobs/sha256/\(hex)") == 0 else { throw Failure.system(path) }
    }
}
