import LaminaDigest
import LaminaFormats
import LaminaOCI

/// What an image has besides its layers.
struct ImageDocuments {
    /// The config's bytes.
    var config: [UInt8]
    /// The manifest's.
    var annotations: [String: String]
    var platform: Platform

    /// The documents of an image whose layers were converted: everything stays except the diff IDs.
    static func converted(_ image: ResolvedImage, _ layers: [WrittenLayer]) -> ImageDocuments {
        ImageDocuments(
            config: image.config.replacingDiffIDs(layers.map(\.result.diffID)),
            annotations: image.manifest.annotations.withoutLabels, platform: image.platform)
    }

    /// The documents of a tar or directory: only the platform is known, and perhaps a time.
    static func new(_ platform: Platform, _ layers: [WrittenLayer], _ created: Int64?) -> ImageDocuments {
        var step = [JSON.Member("created_by", .string("lamina convert"))]
        var members = [
            JSON.Member("architecture", .string(platform.architecture)), JSON.Member("os", .string(platform.os)),
            JSON.Member("config", .object([])),
            JSON.Member(
                "rootfs",
                .object([
                    .init("type", .string("layers")),
                    .init("diff_ids", .array(layers.map { .string($0.result.diffID.description) })),
                ])),
        ]
        if let variant = platform.variant { members.append(JSON.Member("variant", .string(variant))) }
        if let created {
            let time = JSON.string(TarHeader.Time(seconds: created).rfc3339)
            step.append(JSON.Member("created", time))
            members.append(JSON.Member("created", time))
        }
        members.append(JSON.Member("history", .array([.object(step)])))
        return ImageDocuments(config: JSON.object(members).sortedBytes(), annotations: [:], platform: platform)
    }
}

extension [String: String] {
    /// Annotations without those that containerd hands on to its snapshotter as labels: who converts an image is not to vouch for what its
    /// author says there.
    var withoutLabels: [String: String] { filter { !$0.key.hasPrefix("containerd.io/snapshot/") } }
}
