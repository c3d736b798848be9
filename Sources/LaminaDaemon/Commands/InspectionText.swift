import LaminaStore

/// Inspections as people read them.
enum InspectionText {
    static func text(of inspection: ImageInspection) -> String {
        let image = inspection.image
        var blocks = [
            TextTable(
                [],
                [
                    ["image", image.reference], ["manifest", image.manifestDigest], ["platform", image.platform],
                    ["pulled", image.pulledAt],
                    [
                        "in store",
                        "\(image.state), \(amount(image.landedBytes, of: image.bytes)), "
                            + "\(image.mergedContents) of \(counted(Int(image.contents), "content"))",
                    ], ["compressed", Units.bytes(image.compressedBytes)],
                ]
            ).text,
            TextTable(
                ["LAYER", "FORMAT", "COMPRESSED", "SIZE", "IN STORE", "DIFF ID"], rightAligned: [2, 3, 4],
                inspection.layers.map {
                    [
                        $0.digest, $0.format, Units.bytes($0.compressedBytes), Units.bytes($0.bytes),
                        Units.percent($0.landedBytes, of: $0.bytes), $0.diffIDProof,
                    ]
                }
            ).text,
        ]
        if !inspection.mounts.isEmpty {
            blocks.append(
                TextTable(
                    ["MOUNTED AT", "WRITES TO", "SINCE"],
                    inspection.mounts.map { [printable($0.target), printable($0.writable ?? "-"), $0.mountedAt] }
                ).text)
        }
        return blocks.joined(separator: "\n\n")
    }

    static func text(of layers: [LayerInspection], _ contents: [ContentInspection]) -> String {
        (layers.map { text(of: $0) } + contents.map { text(of: $0) }).joined(separator: "\n\n")
    }

    private static func text(of layer: LayerInspection) -> String {
        var rows = [
            ["layer", layer.digest], ["format", layer.format], ["diff ID", layer.diffID ?? "not known"],
            ["table of contents", layer.tocDigest ?? "none"],
            ["compressed", Units.bytes(layer.compressedBytes)],
            [
                "in store",
                "\(layer.state), \(amount(layer.landedBytes, of: layer.bytes)), "
                    + "\(layer.mergedContents) of \(counted(Int(layer.contents), "content"))",
            ], ["indexed", layer.indexedAt], ["table vouched for by", layer.tocProof],
            ["blob hashed", layer.blobProvenAt ?? "no"], ["chunks verified", layer.chunksProvenAt ?? "not all"],
            ["files verified", layer.filesProvenAt ?? "not all"],
            ["diff ID proven", layer.diffIDProof + (layer.diffIDProvenAt.map { ", \($0)" } ?? "")],
        ]
        if let computed = layer.computedDiffID { rows.append(["diff ID computed", computed]) }
        rows += list("images", layer.images) + list("sources", layer.sources)
        return TextTable([], rows).text
    }

    private static func text(of content: ContentInspection) -> String {
        let files = content.files.map { "\($0.path) of layer \($0.layer)" }
        return TextTable(
            [],
            [
                ["content", content.digest], ["size", "\(content.bytes)"],
                ["in store", "\(content.state), \(amount(content.landedBytes, of: content.bytes))"],
                ["digest", content.proof], ["on disk for certain", content.durable],
            ] + list("images", content.images) + list("files", files)
        ).text
    }

    /// What layers have at one path: the last one counts.
    static func text(of files: [FileStatus]) -> String {
        files.map { file in
            var rows = [
                ["path", printable(file.path)], ["layer", file.layer], ["type", file.type], ["mode", file.mode],
                ["owner", "\(file.uid):\(file.gid)"], ["size", "\(file.bytes)"], ["modified", file.modifiedAt],
            ]
            if let target = file.target { rows.append(["target", printable(target)]) }
            if let digest = file.digest { rows.append(["content", digest]) }
            if let state = file.state { rows.append(["in store", state]) }
            return TextTable([], rows).text
        }.joined(separator: "\n\n")
    }

    private static func amount(_ part: Int64, of whole: Int64) -> String {
        "\(Units.bytes(part)) of \(Units.bytes(whole))"
    }

    /// A line each, with the name on the first.
    private static func list(_ name: String, _ values: [String]) -> [[String]] {
        values.isEmpty
            ? [[name, "none"]] : values.enumerated().map { [$0.offset == 0 ? name : "", printable($0.element)] }
    }
}

/// Names are bytes from outside: control characters must not reach a terminal.
func printable(_ text: String) -> String {
    guard text.unicodeScalars.contains(where: { $0.value < 0x20 || $0.value == 0x7f }) else { return text }
    return String(
        String.UnicodeScalarView(text.unicodeScalars.map { $0.value < 0x20 || $0.value == 0x7f ? "?" : $0 }))
}
