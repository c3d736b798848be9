import LaminaOCI

/// What podman's Go program makes of a document: it decodes it into structures, and one value of another type makes `podman images` fail
/// for all images. Names are compared as Go compares them, without regard to upper and lower case, and null is a value of each type.
indirect enum GoType: Sendable {
    case text, boolean, integer, texts
    /// RFC 3339.
    case time
    /// Base64.
    case bytes
    /// A text, or several.
    case words
    case list(GoType)
    case map(GoType)
    /// By lower-case names; others are ignored.
    case structure([String: GoType])
    /// What must not be there.
    case nothing

    /// Why Go cannot decode a value as this; nil where it can.
    func problem(of value: JSON, at place: String) -> String? {
        func wrong(_ wanted: String) -> String { "'\(place.prefix(200))' is no \(wanted)" }
        switch (self, value) {
        case (_, .null): return nil
        case (.nothing, _): return "'\(place.prefix(200))' is not in an image's manifest"
        case (.text, .string), (.boolean, .bool), (.words, .string): return nil
        case (.integer, .number(let text)): return Int64(text) == nil ? wrong("whole number") : nil
        case (.time, .string(let text)): return StorageTime.valid(text) == nil ? wrong("time") : nil
        case (.bytes, .string(let text)):
            let letters = text.filter { !$0.isNewline }
            return Base64.decode(text).map { Base64.encode($0) } == letters ? nil : wrong("base64")
        case (.texts, .array), (.words, .array): return GoType.list(.text).problem(of: value, at: place)
        case (.list(let type), .array(let items)):
            for (number, item) in items.enumerated() {
                if let problem = type.problem(of: item, at: "\(place)[\(number)]") { return problem }
            }
            return nil
        case (.map(let type), .object(let members)):
            for member in members {
                if let problem = type.problem(of: member.value, at: "\(place).\(member.name)") { return problem }
            }
            return nil
        case (.structure(let fields), .object(let members)):
            for member in members {
                guard let type = fields[Self.folded(member.name)] else { continue }
                let place = place.isEmpty ? member.name : "\(place).\(member.name)"
                if let problem = type.problem(of: member.value, at: place) { return problem }
            }
            return nil
        case (.text, _): return wrong("text")
        case (.boolean, _): return wrong("true or false")
        case (.integer, _): return wrong("whole number")
        case (.time, _): return wrong("time")
        case (.bytes, _): return wrong("base64")
        case (.texts, _), (.words, _), (.list, _): return wrong("list")
        case (.map, _), (.structure, _): return place.isEmpty ? "it is no object" : wrong("object")
        }
    }

    /// Go takes two letters beyond ASCII for their likes (`encoding/json`, `foldName`).
    private static func folded(_ name: String) -> String {
        String(
            String.UnicodeScalarView(
                name.unicodeScalars.map { scalar -> Unicode.Scalar in
                    switch scalar {
                    case "\u{17F}": "s"
                    case "\u{212A}": "k"
                    case "A"..."Z": Unicode.Scalar(UInt8(scalar.value + 32))
                    default: scalar
                    }
                }))
    }
}

/// The documents of an image, as containers/image and podman decode them.
package enum GoDocument {
    /// Why podman cannot read an image; nil where it can.
    package static func problem(manifest: [UInt8], config: [UInt8]) -> String? {
        for (name, bytes, type) in [("manifest", manifest, Self.manifest), ("configuration", config, image)] {
            guard let document = try? JSON.parse(bytes) else { return "podman cannot read its \(name): it is no JSON" }
            if let problem = type.problem(of: document, at: "") {
                return "podman cannot read its \(name): \(problem)"
            }
        }
        return nil
    }

    /// Of OCI and of docker (`manifest/oci.go`, `docker_schema2.go`). A manifest that has what belongs to another kind is refused
    /// (`ValidateUnambiguousManifestFormat`).
    private static let manifest = GoType.structure([
        "schemaversion": .integer, "mediatype": .text, "artifacttype": .text, "config": descriptor,
        "layers": .list(descriptor), "subject": descriptor, "annotations": .map(.text), "fslayers": .nothing,
        "history": .nothing, "manifests": .nothing,
    ])

    private static let descriptor = GoType.structure([
        "mediatype": .text, "digest": .text, "size": .integer, "urls": .texts, "annotations": .map(.text),
        "data": .bytes, "artifacttype": .text,
        "platform": .structure([
            "architecture": .text, "os": .text, "os.version": .text, "os.features": .texts, "variant": .text,
        ]),
    ])

    /// Of OCI and of docker: both are decoded from either (`Schema2Image`, `Inspect` of OCI's).
    private static let image = GoType.structure([
        "id": .text, "parent": .text, "comment": .text, "created": .time, "container": .text, "docker_version": .text,
        "author": .text, "architecture": .text, "variant": .text, "os": .text, "os.version": .text,
        "os.features": .texts, "size": .integer, "config": container(.texts), "container_config": container(.words),
        "rootfs": .structure(["type": .text, "diff_ids": .texts]),
        "history": .list(
            .structure([
                "created": .time, "created_by": .text, "author": .text, "comment": .text, "empty_layer": .boolean,
            ])),
    ])

    private static func container(_ command: GoType) -> GoType {
        .structure([
            "hostname": .text, "domainname": .text, "user": .text, "attachstdin": .boolean, "attachstdout": .boolean,
            "attachstderr": .boolean, "exposedports": .map(.structure([:])), "tty": .boolean, "openstdin": .boolean,
            "stdinonce": .boolean, "env": .texts, "cmd": command, "entrypoint": command, "shell": command,
            "healthcheck": .structure([
                "test": .texts, "interval": .integer, "timeout": .integer, "startperiod": .integer,
                "startinterval": .integer, "retries": .integer,
            ]),
            "argsescaped": .boolean, "image": .text, "volumes": .map(.structure([:])), "workingdir": .text,
            "networkdisabled": .boolean, "macaddress": .text, "onbuild": .texts, "labels": .map(.text),
            "stopsignal": .text, "stoptimeout": .integer,
        ])
    }
}
