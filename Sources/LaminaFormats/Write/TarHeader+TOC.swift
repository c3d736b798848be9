// How a table of contents expresses a tar header: the same for a layer that is written and for a plain one that is read.

extension TarHeader.Kind {
    /// The entry's `type`.
    var tocName: StaticString {
        switch self {
        case .regular: "reg"
        case .hardLink: "hardlink"
        case .symbolicLink: "symlink"
        case .characterDevice: "char"
        case .blockDevice: "block"
        case .directory: "dir"
        case .fifo: "fifo"
        }
    }
}

extension TarHeader {
    /// Appends the key `xattrs`, with a comma before it; nothing if there are none.
    func appendAttributes(to text: inout [UInt8]) {
        guard !attributes.isEmpty else { return }
        text += ",\"xattrs\":".utf8
        for (index, attribute) in attributes.enumerated() {
            text.append(index == 0 ? UInt8(ascii: "{") : UInt8(ascii: ","))
            JSONText.append(string: attribute.name, to: &text)
            text.append(UInt8(ascii: ":"))
            JSONText.append(base64: attribute.value, to: &text)
        }
        text.append(UInt8(ascii: "}"))
    }
}
