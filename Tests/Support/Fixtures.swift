/// The layouts of Tests/Fixtures.
public enum Fixtures {
    /// The directory Tests/Fixtures.
    public static let directory: String = {
        // …/Tests/Support/Fixtures.swift
        let parts = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(2)
        return parts.joined(separator: "/") + "/Fixtures"
    }()

    /// Names of the layouts in it, all of the same image.
    public static let layouts = [
        "plain-gzip", "estargz", "estargz-64k", "zstd-chunked-stargz", "zstd-chunked-skopeo-1.9",
        "zstd-chunked-podman-5",
    ]

    /// The path of a layout.
    public static func layout(_ name: String) -> String { "\(directory)/\(name)" }
}
