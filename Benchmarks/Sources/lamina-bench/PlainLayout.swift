import Foundation

/// An OCI layout with one ordinary gzip layer, as every other tool makes it.
struct PlainLayout {
    let directory: String

    func write(files: String) throws {
        let layer = directory + "/layer"
        let compressor = isInstalled("pigz") ? "pigz" : "gzip"
        // The tar's own digest is computed on its way.
        let diffID = try run([
            "bash", "-c",
            "set -o pipefail; tar -C \"$1\" -c . | tee >(\(compressor) -6 -n > \"$2\") | sha256sum", "bench", files,
            layer,
        ]).output.prefix(64)
        let layerDigest = try digest(layer)
        let layerSize = fileSize(layer)
        try place(layer, layerDigest)
        let config = try add(
            ["architecture": "amd64", "os": "linux", "rootfs": ["type": "layers", "diff_ids": ["sha256:\(diffID)"]]],
            type: "application/vnd.oci.image.config.v1+json")
        let manifest = try add(
            [
                "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
                "layers": [
                    [
                        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:\(layerDigest)",
                        "size": layerSize,
                    ]
                ],
            ], type: "application/vnd.oci.image.manifest.v1+json")
        try document(["schemaVersion": 2, "manifests": [manifest]], at: directory + "/index.json")
        try document(["imageLayoutVersion": "1.0.0"], at: directory + "/oci-layout")
    }

    /// Stores a document as a blob; answers its descriptor.
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
