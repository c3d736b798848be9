import Glibc
import LaminaSystem

/// Tries whether this machine can mount sealed chains of a store. It mounts a tiny chain, with an overlay above it as a
/// container has one, and reads a file.
public enum SealTrial {
    public enum Outcome: Sendable, Equatable {
        case works(SealedMount.Way)
        /// Why not, as a sentence without a full stop.
        case fails(String)
    }

    private static let bytes = Array("what a sealed mount shows is what the store has\n".utf8)

    /// Some milliseconds.
    ///
    /// - Parameter directory: is made, used and removed again. It must be on the store's file system, because the result
    ///   depends on that.
    public static func run(in directory: String) -> Outcome {
        guard geteuid() == 0 else { return .fails("mounting takes root") }
        clean(directory)
        defer { clean(directory) }
        do {
            try prepare(directory)
        } catch {
            return .fails("the trial cannot be prepared: \(error)")
        }
        var reasons: [String] = []
        for way in ways {
            guard let reason = attempt(directory, way) else { return .works(way) }
            if !reasons.contains(reason) { reasons.append(reason) }
            // What no other way would change.
            if reason == noEROFS { return .fails(reason) }
        }
        return .fails(reasons.joined(separator: "; "))
    }

    /// The best first. A container's overlay must not be told of metacopy: what it changes would be no whole file then. So a kernel that
    /// has to be told has an overlay of ours in between.
    private static let ways = [(SealedMount.Form.names, false), (.overlay, false), (.overlay, true)].flatMap {
        form, saysMetacopy in
        [SealedMount.Backing.file, .loop].map {
            SealedMount.Way(backing: $0, saysMetacopy: saysMetacopy, form: form)
        }
    }

    private static let noEROFS = "the kernel has no EROFS (CONFIG_EROFS_FS)"

    private static func prepare(_ directory: String) throws {
        for name in ["content", "names", "inner", "outer"] { try createDirectories("\(directory)/\(name)") }
        try write(bytes, to: "\(directory)/content/file")
        var rows = ChainRows()
        try rows.addInode(1, inode(mode: 0o40755, size: 0), bytes: nil)
        try Array("file".utf8).withUnsafeBytes {
            try rows.addInode(2, inode(mode: 0o100644, size: Int64(bytes.count)), bytes: $0)
            try rows.addEntry(parent: 1, name: $0, inode: 2)
        }
        let image = try SealedImage(
            rows, roots: [1], options: SealedImage.Options(identity: [UInt8](repeating: 0, count: 16)))
        var whole: [UInt8] = []
        try image.write { whole += $0 }
        try write(whole, to: "\(directory)/image")
    }

    private static func inode(mode: UInt32, size: Int64) -> SealedInode {
        SealedInode(
            mode: mode, uid: 0, gid: 0, linkCount: 1, device: 0, size: size, seconds: 1, nanoseconds: 5)
    }

    private static func write(_ bytes: [UInt8], to path: String) throws {
        let file = try File(path, O_WRONLY | O_CREAT | O_TRUNC)
        try bytes.withUnsafeBytes { try file.write($0, at: 0) }
    }

    /// - Returns: what went wrong; nil if nothing did.
    private static func attempt(_ directory: String, _ way: SealedMount.Way) -> String? {
        let (inner, outer) = ("\(directory)/inner", "\(directory)/outer")
        let place = SealedMount.Place(base: directory, image: "image", content: "content", names: "names")
        do throws(SystemError) {
            _ = try SealedMount.mount(place, at: inner, source: "lamina-trial", way: way)
        } catch {
            if error.code == ENODEV { return noEROFS }
            return "a sealed chain cannot be mounted by way of a \(way.backing.rawValue): \(error)"
        }
        defer { try? Mount.unmount(inner, detach: true) }
        do throws(SystemError) {
            try createDirectories("\(directory)/upper")
            try createDirectories("\(directory)/work")
            // As of a container's: overlayfs and what is below it may be two deep, and the store may have one of them already.
            let lower = way.form.lower(directory: "inner", content: "content")
            try Mount.mount(
                type: "overlay", source: "lamina-trial", at: outer,
                data: "lowerdir=\(lower),upperdir=upper,workdir=work,index=off", relativeTo: directory)
        } catch {
            return "no overlay of a container can be mounted above a sealed chain: \(error)"
        }
        defer {
            try? Mount.unmount(outer, detach: true)
            for name in ["upper", "work"] { try? DirectoryTree.remove("\(directory)/\(name)") }
        }
        do throws(SystemError) {
            guard try readFile("\(outer)/file") == bytes else {
                return "a file of a sealed chain has other bytes than the store"
            }
            // What a container changes is a whole file in its upper directory, as commits and builds need it.
            guard chmod("\(outer)/file", 0o600) == 0 else {
                throw SystemError.last("change the mode of", "\(outer)/file")
            }
            guard try readFile("\(directory)/upper/file") == bytes else {
                return "a file that a container changes is no whole file"
            }
            return nil
        } catch {
            return "a file of a sealed chain cannot be read or changed: \(error)"
        }
    }

    /// Removes what is there of this trial, and of one that was killed.
    private static func clean(_ directory: String) {
        for name in ["outer", "inner", "names"] {
            while (try? Mount.unmount("\(directory)/\(name)", detach: true)) != nil {}
        }
        try? DirectoryTree.remove(directory)
    }
}
