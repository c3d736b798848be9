import CLinux
import Glibc

/// Reads the extended attributes of a file, directory, symbolic link or device; names and values are any bytes.
public enum ExtendedAttributes {
    /// All attributes of what `path` names, including a symbolic link's own, sorted by name; none if the file system has no
    /// attributes.
    ///
    /// - Parameters:
    ///   - path: the bytes of the path, without a NUL.
    ///   - subject: the name for errors, because the path may be one below /proc.
    public static func read(
        _ path: [UInt8], subject: String
    ) throws(SystemError) -> [(name: [UInt8], value: [UInt8])] {
        let path = path.map { CChar(bitPattern: $0) } + [0]
        let list = try bytes(subject) { lamina_llistxattr(path, $0, $1) } ?? []
        var attributes: [(name: [UInt8], value: [UInt8])] = []
        for name in list.split(separator: 0) {
            let terminated = name.map { CChar(bitPattern: $0) } + [0]
            // nil: removed since it was listed.
            guard let value = try bytes(subject, { lamina_lgetxattr(path, terminated, $0, $1) }) else { continue }
            attributes.append((Array(name), value))
        }
        return attributes.sorted { $0.name.lexicographicallyPrecedes($1.name) }
    }

    /// The result of a call that returns its size when it gets no buffer; called again if that has grown in between.
    private static func bytes(
        _ subject: String, _ call: (UnsafeMutableRawPointer?, Int) -> Int64
    ) throws(SystemError) -> [UInt8]? {
        while true {
            let size = call(nil, 0)
            if size == 0 { return [] }
            if size > 0 {
                var bytes = [UInt8](repeating: 0, count: Int(size))
                let filled = bytes.withUnsafeMutableBytes { call($0.baseAddress, $0.count) }
                if filled >= 0 { return Array(bytes.prefix(Int(filled))) }
            }
            switch errno {
            case ERANGE: continue
            case ENODATA, ENOTSUP: return nil
            default: throw SystemError.last("read the extended attributes of", subject)
            }
        }
    }
}
